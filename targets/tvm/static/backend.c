/* What TVM's code generator expects of a runtime: workspace, one thread, and errors as text. */
#include <stdio.h>
#include <stdlib.h>

#include "model.h"

#define BLOCKS 64
#define ALIGNED 64

/* Workspace that a kernel has freed is kept for the next one that it is large enough for. */
static struct block { void *memory; uint64_t size; int used; } blocks[BLOCKS];

static void *fresh(uint64_t size) {
    void *memory = aligned_alloc(ALIGNED, (size + ALIGNED) / ALIGNED * ALIGNED);
    if (!memory) fail("no memory for %llu bytes of workspace", (unsigned long long)size);
    return memory;
}

static struct block *fitting(uint64_t size) {
    struct block *best = NULL;
    for (int i = 0; i < BLOCKS; i++) {
        struct block *b = &blocks[i];
        if (b->memory && !b->used && b->size >= size && (!best || b->size < best->size)) best = b;
    }
    return best;
}

/* A place in the table: an empty one, else that of an idle block, which is given back. */
static struct block *vacant(void) {
    for (int i = 0; i < BLOCKS; i++)
        if (!blocks[i].memory) return &blocks[i];
    for (int i = 0; i < BLOCKS; i++)
        if (!blocks[i].used) {
            free(blocks[i].memory);
            return &blocks[i];
        }
    return NULL;
}

void *TVMBackendAllocWorkspace(int device, int id, uint64_t size, int code, int bits) {
    (void)device, (void)id, (void)code, (void)bits;
    struct block *block = fitting(size);
    if (!block) {
        if (!(block = vacant())) return fresh(size);
        *block = (struct block){fresh(size), size, 0};
    }
    block->used = block->memory != NULL;
    return block->memory;
}

int TVMBackendFreeWorkspace(int device, int id, void *memory) {
    (void)device, (void)id;
    for (int i = 0; i < BLOCKS; i++)
        if (blocks[i].memory == memory) {
            blocks[i].used = 0;
            return 0;
        }
    free(memory);
    return 0;
}

/* One thread does all of a parallel loop: the lambda divides the work by `num_task`. */
struct group { void *sync; int32_t tasks; };

int TVMBackendParallelLaunch(int (*lambda)(int, struct group *, void *), void *data, int tasks) {
    (void)tasks;
    struct group one = {NULL, 1};
    return lambda(0, &one, data);
}

int TVMBackendParallelBarrier(int task, struct group *group) {
    (void)task, (void)group;
    return 0;
}

void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
    char text[512];
    size_t end = 0;
    text[0] = 0;
    for (int32_t i = 0; i < count && end < sizeof text - 1; i++) {
        int written = snprintf(text + end, sizeof text - end, "%s", parts[i] ? parts[i] : "");
        if (written > 0) end += (size_t)written;
    }
    fail("%s: %s", kind, text);
}

void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *text) { fail("%s: %s", kind, text); }

/* The kernels register themselves when the program starts; the tables know them already. */
int TVMFFIEnvModRegisterSystemLibSymbol(const char *name, void *symbol) {
    (void)name, (void)symbol;
    return 0;
}
