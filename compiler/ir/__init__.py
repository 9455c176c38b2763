"""The graph IR: values, one editor, text, digests, storage and the law they keep."""
