/* A recursive reader of JSON (RFC 8259), for requests of a few values. */
#include "json.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

#define DEEPEST 32

struct cursor { const char *at, *end; int depth; };

static struct json *parse_value(struct cursor *c);

static int refuse(const char *what) { return fail("the request is no JSON: %s", what); }

static void skip(struct cursor *c) {
    while (c->at < c->end && memchr(" \t\r\n", *c->at, 4)) c->at++;
}

static int take(struct cursor *c, char wanted) {
    skip(c);
    if (c->at >= c->end || *c->at != wanted) return 0;
    c->at++;
    return 1;
}

static int digits(struct cursor *c) {
    const char *start = c->at;
    while (c->at < c->end && *c->at >= '0' && *c->at <= '9') c->at++;
    return c->at > start;
}

static int parse_number(struct cursor *c, struct json *value) {
    const char *start = c->at;
    char copy[64];
    if (*c->at == '-') c->at++;
    if (c->at < c->end && *c->at == '0') c->at++;
    else if (!digits(c)) return refuse("a value is missing");
    if (c->at < c->end && *c->at == '.') {
        c->at++;
        if (!digits(c)) return refuse("a number ends with a point");
    }
    if (c->at < c->end && (*c->at == 'e' || *c->at == 'E')) {
        c->at++;
        if (c->at < c->end && (*c->at == '+' || *c->at == '-')) c->at++;
        if (!digits(c)) return refuse("a number has an empty exponent");
    }
    size_t length = (size_t)(c->at - start);
    if (length >= sizeof copy) return refuse("a number is too long");
    memcpy(copy, start, length);
    copy[length] = 0;
    value->kind = JSON_NUMBER;
    value->number = strtod(copy, NULL);
    return 0;
}

static int hex(struct cursor *c, uint32_t *code) {
    *code = 0;
    for (int i = 0; i < 4; i++, c->at++) {
        const char *known = "0123456789abcdef0123456789ABCDEF", *found;
        if (c->at >= c->end || !*c->at || !(found = strchr(known, *c->at))) return refuse("a wrong \\u");
        *code = *code * 16 + (uint32_t)(found - known) % 16;
    }
    return 0;
}

/* One \u escape, or two that are a surrogate pair. */
static int code_point(struct cursor *c, uint32_t *code) {
    uint32_t low;
    if (hex(c, code)) return -1;
    if (*code < 0xd800 || *code > 0xdfff) return *code ? 0 : refuse("a zero in a string");
    if (*code > 0xdbff || c->end - c->at < 6 || c->at[0] != '\\' || c->at[1] != 'u')
        return refuse("half a surrogate pair");
    c->at += 2;
    if (hex(c, &low)) return -1;
    if (low < 0xdc00 || low > 0xdfff) return refuse("half a surrogate pair");
    *code = 0x10000 + ((*code - 0xd800) << 10) + (low - 0xdc00);
    return 0;
}

static char *put_utf8(char *out, uint32_t code) {
    if (code < 0x80) {
        *out++ = (char)code;
        return out;
    }
    int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    static const unsigned char lead[] = {0, 0xc0, 0xe0, 0xf0};
    *out++ = (char)(lead[more] | code >> 6 * more);
    while (more--) *out++ = (char)(0x80 | (code >> 6 * more & 0x3f));
    return out;
}

static char *parse_escape(struct cursor *c, char *out) {
    static const char names[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    uint32_t code;
    const char *found;
    if (c->at < c->end && *c->at == 'u') {
        c->at++;
        return code_point(c, &code) ? NULL : put_utf8(out, code);
    }
    if (c->at >= c->end || !*c->at || !(found = strchr(names, *c->at))) {
        refuse("an unknown escape");
        return NULL;
    }
    c->at++;
    *out++ = meant[found - names];
    return out;
}

/* The text of a string whose opening quote was taken; never longer than its source. */
static char *parse_string(struct cursor *c) {
    char *text = malloc((size_t)(c->end - c->at) + 1), *out = text;
    while (text && out && c->at < c->end && *c->at != '"') {
        if ((unsigned char)*c->at < 0x20) {
            refuse("a control character in a string");
            out = NULL;
        } else if (*c->at == '\\') {
            c->at++;
            out = parse_escape(c, out);
        } else {
            *out++ = *c->at++;
        }
    }
    if (text && out && c->at < c->end) {
        c->at++;
        *out = 0;
        return text;
    }
    if (!text || out) refuse("a string has no end");
    free(text);
    return NULL;
}

static struct json *parse_member(struct cursor *c, int keyed) {
    char *key = NULL;
    if (keyed) {
        if (!take(c, '"')) {
            refuse("a name was expected");
            return NULL;
        }
        if (!(key = parse_string(c))) return NULL;
        if (!take(c, ':')) {
            refuse("a colon was expected");
            free(key);
            return NULL;
        }
    }
    struct json *value = parse_value(c);
    if (value) value->key = key;
    else free(key);
    return value;
}

static int parse_members(struct cursor *c, struct json *value, char close) {
    struct json **last = &value->first;
    value->kind = close == '}' ? JSON_OBJECT : JSON_ARRAY;
    if (take(c, close)) return 0;
    do {
        if (!(*last = parse_member(c, close == '}'))) return -1;
        last = &(*last)->next;
        value->count++;
    } while (take(c, ','));
    return take(c, close) ? 0 : refuse("a list or an object has no end");
}

static int parse_word(struct cursor *c, struct json *value) {
    static const char *const words[] = {"null", "false", "true"};
    for (int i = 0; i < 3; i++) {
        size_t length = strlen(words[i]);
        if ((size_t)(c->end - c->at) < length || memcmp(c->at, words[i], length)) continue;
        c->at += length;
        value->kind = (enum json_kind)i;
        return 0;
    }
    return parse_number(c, value);
}

static int parse_into(struct cursor *c, struct json *value) {
    if (take(c, '{')) return parse_members(c, value, '}');
    if (take(c, '[')) return parse_members(c, value, ']');
    if (take(c, '"')) {
        value->kind = JSON_STRING;
        return (value->text = parse_string(c)) ? 0 : -1;
    }
    return c->at < c->end ? parse_word(c, value) : refuse("a value is missing");
}

static struct json *parse_value(struct cursor *c) {
    struct json *value = NULL;
    if (++c->depth > DEEPEST) refuse("it is nested too deeply");
    else if (!(value = calloc(1, sizeof *value))) fail("no memory");
    else if (parse_into(c, value)) {
        free_json(value);
        value = NULL;
    }
    c->depth--;
    return value;
}

struct json *parse_json(const char *text, size_t length) {
    struct cursor c = {text, text + length, 0};
    struct json *value = parse_value(&c);
    skip(&c);
    if (value && c.at != c.end) {
        refuse("something follows it");
        free_json(value);
        return NULL;
    }
    return value;
}

void free_json(struct json *value) {
    while (value) {
        struct json *next = value->next;
        free_json(value->first);
        free(value->text);
        free(value->key);
        free(value);
        value = next;
    }
}

const struct json *member(const struct json *object, const char *name) {
    const struct json *found = NULL;
    for (const struct json *m = object->first; m; m = m->next)
        if (m->key && !strcmp(m->key, name)) found = m;
    return found;
}

/* The bytes of the UTF-8 character at a place, 0 where there is none: a message may have been cut. */
static int character(const char *at) {
    unsigned char lead = (unsigned char)*at;
    int length = lead < 0x80 ? 1 : lead >> 5 == 6 ? 2 : lead >> 4 == 14 ? 3 : lead >> 3 == 30 ? 4 : 0;
    for (int i = 1; i < length; i++)
        if ((at[i] & 0xc0) != 0x80) return 0;
    return length;
}

void print_json(FILE *out, const char *text) {
    putc('"', out);
    for (int length; *text; text += length ? length : 1) {
        length = character(text);
        if (*text == '"' || *text == '\\') fprintf(out, "\\%c", *text);
        else if (!length) putc('?', out);
        else if ((unsigned char)*text < 0x20) fprintf(out, "\\u%04x", *text);
        else fwrite(text, 1, (size_t)length, out);
    }
    putc('"', out);
}
