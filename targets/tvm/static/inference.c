/* Gives a program's tensors their memory, and calls its kernels in order. */
#include "model.h"

#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define HEADER 64
#define MAGIC "edgewright.weights/1 "
#define DIGITS 16

static char message[1024];
static TVMFFIAny *arguments;

int fail(const char *format, ...) {
    va_list values;
    va_start(values, format);
    vsnprintf(message, sizeof message, format, values);
    va_end(values);
    return -1;
}

const char *failure(void) { return message; }

uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

size_t tensor_bytes(const DLTensor *tensor) {
    size_t size = tensor->dtype.bits / 8;
    for (int i = 0; i < tensor->ndim; i++) size *= (size_t)tensor->shape[i];
    return size;
}

/* Pages of zeros; a segment without bytes gets a page, so that no tensor has a null pointer. */
static char *allocate(uint64_t size) {
    void *memory =
        mmap(NULL, size ? size : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

/* The file is mapped, not read: pages come in when a kernel first reads them. */
static char *map_weights(const char *path) {
    struct stat status;
    uint64_t expected = HEADER + model_segments[WEIGHTS];
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &status)) {
        fail("cannot open the weights %s", path);
        return NULL;
    }
    char *memory = MAP_FAILED;
    if ((uint64_t)status.st_size == expected)
        memory = mmap(NULL, expected, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    if (memory == MAP_FAILED) {
        fail("the weights %s cannot be mapped or are not %llu bytes", path, (unsigned long long)expected);
        return NULL;
    }
    if (memcmp(memory, MAGIC, sizeof MAGIC - 1) || memcmp(memory + sizeof MAGIC - 1, model_weights, DIGITS)) {
        fail("the weights %s belong to another program", path);
        return NULL;
    }
    return memory + HEADER;
}

int bind_model(const char *weights) {
    char *base[SEGMENTS];
    if (!(base[WEIGHTS] = map_weights(weights))) return -1;
    for (int segment = 0; segment < WEIGHTS; segment++)
        if (!(base[segment] = allocate(model_segments[segment])))
            return fail("no memory for %llu bytes", (unsigned long long)model_segments[segment]);
    for (int i = 0; i < model_tensor_count; i++)
        model_tensors[i].data = base[model_places[i].segment] + model_places[i].offset;
    if (!(arguments = calloc((size_t)model_argument_count + 1, sizeof *arguments))) return fail("no memory");
    for (int i = 0; i < model_argument_count; i++) {
        arguments[i].type_index = kTVMFFIDLTensorPtr;
        arguments[i].v_ptr = &model_tensors[model_arguments[i]];
    }
    return 0;
}

static int run_call(const struct call *call) {
    TVMFFIAny result = {.type_index = kTVMFFINone};
    return model_kernels[call->kernel].run(NULL, arguments + call->first, call->count, &result) ? -1 : 0;
}

int run_model(void) {
    for (int i = 0; i < model_call_count; i++)
        if (run_call(&model_calls[i])) return -1;
    return 0;
}

int run_model_timed(uint64_t *ns) {
    for (int i = 0; i < model_call_count; i++) {
        uint64_t start = now_ns();
        if (run_call(&model_calls[i])) return -1;
        ns[i] = now_ns() - start;
    }
    return 0;
}

/* splitmix64 (Steele, Lea, Flood, 2014), as a number in (0, 1]. */
static double uniform(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (double)(((z ^ (z >> 31)) >> 11) + 1) * 0x1p-53;
}

static double normal(uint64_t *state) {
    double radius = sqrt(-2 * log(uniform(state)));
    return radius * cos(2 * M_PI * uniform(state));
}

static void put(char *place, DLDataType type, double value) {
    float single = (float)value;
    _Float16 half = (_Float16)value;
    if (type.code == kDLBfloat)
        memcpy(place, (char *)&single + 2, 2); /* the upper half of a little-endian float */
    else if (type.bits == 16)
        memcpy(place, &half, 2);
    else if (type.bits == 32)
        memcpy(place, &single, 4);
    else
        memcpy(place, &value, 8);
}

void make_inputs(void) {
    for (int i = 0; i < model_input_count; i++) {
        const DLTensor *tensor = &model_tensors[model_inputs[i].tensor];
        size_t size = tensor_bytes(tensor), step = tensor->dtype.bits / 8;
        uint64_t state = (uint64_t)i;
        memset(tensor->data, 0, size);
        if (tensor->dtype.code == kDLFloat || tensor->dtype.code == kDLBfloat)
            for (size_t at = 0; at < size; at += step)
                put((char *)tensor->data + at, tensor->dtype, normal(&state));
    }
}
