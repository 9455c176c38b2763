/* A program as tables (model.c, generated), and how it is bound and run (inference.c). */
#ifndef EDGEWRIGHT_MODEL_H
#define EDGEWRIGHT_MODEL_H

#include <stddef.h>
#include <stdint.h>
#include <tvm/ffi/c_api.h>

/* TVM's calling convention: 0, or not 0 after TVMFFIErrorSetRaisedFromCStrParts. */
typedef int kernel(void *self, const TVMFFIAny *arguments, int32_t count, TVMFFIAny *result);

enum segment { INPUTS, OUTPUTS, ARENA, WEIGHTS, SEGMENTS };

struct place { enum segment segment; uint64_t offset; };
struct named_kernel { const char *name; kernel *run; };
struct call { int kernel; int first; int count; };              /* arguments from `first` on */
struct port { const char *name; const char *dtype; int tensor; }; /* an input or an output */

extern const char model_method[];
extern const char model_weights[]; /* 16 hexadecimal digits, as in the file's first line */
extern const uint64_t model_segments[];
extern const int model_tensor_count;
extern DLTensor model_tensors[];
extern const struct place model_places[];
extern const int model_kernel_count; /* in order of their first call */
extern const struct named_kernel model_kernels[];
extern const int model_argument_count;
extern const int model_arguments[];
extern const int model_call_count;
extern const struct call model_calls[];
extern const int model_input_count;
extern const struct port model_inputs[];
extern const int model_output_count;
extern const struct port model_outputs[];

/* Each returns 0, or -1 after fail(). */
int bind_model(const char *weights);
int run_model(void);
int run_model_timed(uint64_t *ns); /* one entry a call */
void make_inputs(void);            /* seeded: normal for floats, zeros otherwise */

size_t tensor_bytes(const DLTensor *tensor);
uint64_t now_ns(void);

/* The one line that says what failed last. */
int fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
const char *failure(void);

#endif
