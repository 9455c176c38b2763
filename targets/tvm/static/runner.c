/* Speaks the runner protocol (devices/runner_protocol.md) for the program it is linked with.
 *
 *     model WEIGHTS [--method NAME]
 *
 * One JSON document a line: requests on stdin, answers on what stdout was when it started.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "requests.h"

FILE *answers; /* collects one answer */
static char *said;
static size_t said_size;
static FILE *out;

static const struct { const char *name; int (*answer)(const struct json *); } REQUESTS[] = {
    {"time", answer_time},   {"time_for", answer_time_for}, {"profile", answer_profile},
    {"infer", answer_infer}, {"count", answer_count},       {"memory", answer_memory},
};

/* Returns 1 for `exit`, 0 when it has answered, -1 after fail(). */
static int answer(const struct json *request) {
    const struct json *wanted = request->kind == JSON_OBJECT ? member(request, "do") : NULL;
    const char *name = wanted && wanted->kind == JSON_STRING ? wanted->text : "";
    if (!strcmp(name, "exit")) return 1;
    for (size_t i = 0; i < sizeof REQUESTS / sizeof *REQUESTS; i++)
        if (!strcmp(name, REQUESTS[i].name)) return REQUESTS[i].answer(request);
    return fail("unknown request '%.64s'; expected time, time_for, profile, count, memory, infer or exit", name);
}

static uint32_t crc32(uint32_t crc, const char *bytes, size_t count) {
    for (crc = ~crc; count--; bytes++) {
        crc ^= (unsigned char)*bytes;
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

/* Says the answer that was collected, with the check of it and of what was asked unless that is NULL. */
static void say(const char *asked, size_t length) {
    fflush(answers);
    size_t body = said_size - strlen("}\n");
    fwrite(said, 1, asked ? body : said_size, out);
    if (asked) fprintf(out, ", \"crc32\": \"%08x\"}\n", (unsigned)crc32(crc32(0, asked, length), said, body));
    fflush(out);
    rewind(answers);
}

static void print_error(void) {
    rewind(answers);
    fputs("{\"error\": ", answers);
    print_json(answers, failure());
    fputs("}\n", answers);
}

static int serve(const char *line, size_t length) {
    if (line[length - 1] == '\n') length--;
    struct json *request = parse_json(line, length);
    int checked = request && request->kind == JSON_OBJECT && member(request, "check");
    int state = request ? answer(request) : -1;
    free_json(request);
    if (state < 0) print_error();
    if (state <= 0) say(checked ? line : NULL, length);
    return state > 0;
}

static int load(int count, char **words) {
    uint64_t start = now_ns();
    if (count != 2 && !(count == 4 && !strcmp(words[2], "--method")))
        return fail("usage: model WEIGHTS [--method NAME]");
    if (count == 4 && strcmp(words[3], model_method))
        return fail("the program has no method '%s'; it has %s", words[3], model_method);
    if (bind_model(words[1])) return -1;
    uint64_t load_ns = now_ns() - start;
    make_inputs();
    start = now_ns();
    if (run_model()) return -1;
    fprintf(answers, "{\"event\": \"ready\", \"load_ns\": %llu, \"first_ns\": %llu, \"threads\": 1}\n",
            (unsigned long long)load_ns, (unsigned long long)(now_ns() - start));
    return 0;
}

int main(int count, char **words) {
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    answers = open_memstream(&said, &said_size);
    out = fdopen(dup(1), "w");
    dup2(2, 1); /* what a kernel might print must not mix with the answers */
    if (!answers || !out) return 1;
    int failed = load(count, words);
    if (failed) print_error();
    say(failed ? NULL : "", 0);
    if (failed) return 1;
    while ((length = getline(&line, &room, stdin)) >= 0)
        if (strspn(line, " \t\r\n") != (size_t)length && serve(line, (size_t)length)) break;
    return 0;
}
