/* Answers that time inferences, count them, or give the time of each kernel's call, or the memory of them all. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "requests.h"

#define MOST 1000000 /* iterations of one request */

static uint64_t cpu_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int whole(const struct json *request, const char *name, int missing, size_t *value) {
    const struct json *found = member(request, name);
    if (!found && missing >= 0) {
        *value = (size_t)missing;
        return 0;
    }
    if (!found || found->kind != JSON_NUMBER || !(found->number >= 0 && found->number <= MOST) ||
        found->number != floor(found->number))
        return fail("%s must be a whole number from 0 to %d", name, MOST);
    *value = (size_t)found->number;
    return 0;
}

static void print_list(const char *name, const uint64_t *values, size_t count, size_t step) {
    fprintf(answers, "\"%s\": [", name);
    for (size_t i = 0; i < count; i++)
        fprintf(answers, "%s%llu", i ? ", " : "", (unsigned long long)values[i * step]);
    putc(']', answers);
}

/* Samples lie in pairs, wall and processor time, so that they grow together. */
struct samples { uint64_t *pairs; size_t count, room; };

static int make_room(struct samples *s, size_t room) {
    uint64_t *grown = realloc(s->pairs, 2 * room * sizeof *grown);
    if (!grown) return fail("no memory for %zu samples", room);
    memset(grown + 2 * s->room, 0, 2 * (room - s->room) * sizeof *grown); /* touched before it is timed */
    s->pairs = grown;
    s->room = room;
    return 0;
}

static int sample(struct samples *s) {
    if (s->count == s->room && make_room(s, 2 * s->room)) return -1;
    uint64_t cpu_before = cpu_ns(), wall_before = now_ns();
    if (run_model()) return -1;
    uint64_t wall_after = now_ns(), cpu_after = cpu_ns();
    s->pairs[2 * s->count] = wall_after - wall_before;
    s->pairs[2 * s->count + 1] = cpu_after - cpu_before;
    s->count++;
    return 0;
}

static int time_series(size_t least, uint64_t budget_ns, size_t room) {
    struct samples s = {0};
    int failed = make_room(&s, room + 1);
    uint64_t start = now_ns();
    while (!failed && (s.count < least || (budget_ns && now_ns() - start < budget_ns))) failed = sample(&s);
    if (!failed) {
        putc('{', answers);
        print_list("wall_ns", s.pairs, s.count, 2);
        fputs(", ", answers);
        print_list("cpu_ns", s.pairs + 1, s.count, 2);
        fputs("}\n", answers);
    }
    free(s.pairs);
    return failed;
}

int answer_time(const struct json *request) {
    size_t count;
    if (whole(request, "iterations", -1, &count)) return -1;
    return time_series(count, 0, count);
}

int answer_time_for(const struct json *request) {
    const struct json *seconds = member(request, "seconds");
    size_t least;
    if (whole(request, "min", 3, &least)) return -1;
    if (!seconds || seconds->kind != JSON_NUMBER || !(seconds->number >= 0 && seconds->number < 1e6))
        return fail("seconds must be a number from 0 to 1000000");
    return time_series(least, (uint64_t)(seconds->number * 1e9), 4096);
}

/* Each inference lies between two calls of getppid, which an emulator's instruction counter sees. */
int answer_count(const struct json *request) {
    size_t count;
    if (whole(request, "iterations", -1, &count)) return -1;
    for (size_t i = 0; i < count; i++) {
        getppid();
        int failed = run_model();
        getppid();
        if (failed) return -1;
    }
    fprintf(answers, "{\"iterations\": %zu}\n", count);
    return 0;
}

/* A kernel's second call in an inference is told from the first by its name, kernel#2. */
static void print_call(int call) {
    const char *name = model_kernels[model_calls[call].kernel].name;
    int time = 1;
    for (int c = 0; c < call; c++) time += model_calls[c].kernel == model_calls[call].kernel;
    fprintf(answers, "{\"name\": \"%s", name);
    if (time > 1) fprintf(answers, "#%d", time);
    fprintf(answers, "\", \"op\": \"%s\", ", name);
}

static void print_profile(const uint64_t *ns, size_t iterations) {
    fputs("{\"operations\": [", answers);
    for (int c = 0; c < model_call_count; c++) {
        if (c) fputs(", ", answers);
        print_call(c);
        print_list("ns", ns + c, iterations, (size_t)model_call_count);
        putc('}', answers);
    }
    fputs("]}\n", answers);
}

int answer_profile(const struct json *request) {
    size_t count, calls = (size_t)model_call_count;
    if (whole(request, "iterations", -1, &count)) return -1;
    uint64_t *ns = calloc(count * calls + 1, sizeof *ns);
    if (!ns) return fail("no memory for %zu iterations", count);
    int failed = 0;
    for (size_t i = 0; i < count && !failed; i++) failed = run_model_timed(ns + i * calls);
    if (!failed) print_profile(ns, count);
    free(ns);
    return failed;
}

/* The most that this process has had resident. */
int answer_memory(const struct json *request) {
    (void)request;
    unsigned long long kib = 0;
    char line[256];
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "VmHWM: %llu kB", &kib) == 1) break;
    if (status) fclose(status);
    if (!kib) return fail("the system does not tell a process its peak memory (VmHWM in /proc/self/status)");
    fprintf(answers, "{\"peak_rss_bytes\": %llu}\n", kib * 1024);
    return 0;
}
