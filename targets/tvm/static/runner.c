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

FILE *answers;

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

static void say_error(void) {
    fputs("{\"error\": ", answers);
    print_json(answers, failure());
    fputs("}\n", answers);
    fflush(answers);
}

static int serve(const char *line, size_t length) {
    struct json *request = parse_json(line, length);
    int state = request ? answer(request) : -1;
    if (state < 0) say_error();
    free_json(request);
    fflush(answers);
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
    fflush(answers);
    return 0;
}

int main(int count, char **words) {
    char *line = NULL;
    size_t room = 0;
    ssize_t length;
    answers = fdopen(dup(1), "w");
    dup2(2, 1); /* what a kernel might print must not mix with the answers */
    if (!answers) return 1;
    if (load(count, words)) {
        say_error();
        return 1;
    }
    while ((length = getline(&line, &room, stdin)) >= 0)
        if (strspn(line, " \t\r\n") != (size_t)length && serve(line, (size_t)length)) break;
    return 0;
}
