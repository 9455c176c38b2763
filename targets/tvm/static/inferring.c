/* The answer that runs the program on inputs from files. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "requests.h"

static int read_input(const struct port *port, const char *path) {
    const DLTensor *tensor = &model_tensors[port->tensor];
    size_t expected = tensor_bytes(tensor);
    struct stat status;
    FILE *file = fopen(path, "rb");
    if (!file) return fail("cannot read %s: %s", path, strerror(errno));
    int failed = 0;
    if (fstat(fileno(file), &status) || (unsigned long long)status.st_size != expected)
        failed = fail("input '%s' takes %zu bytes, %s holds %lld", port->name, expected, path,
                      (long long)status.st_size);
    else if (fread(tensor->data, 1, expected, file) != expected)
        failed = fail("cannot read %s", path);
    fclose(file);
    return failed;
}

static int write_output(int index, const char *folder, char *path, size_t room) {
    const DLTensor *tensor = &model_tensors[model_outputs[index].tensor];
    if ((size_t)snprintf(path, room, "%s/output%d.bin", folder, index) >= room) return fail("the path is too long");
    FILE *file = fopen(path, "wb");
    if (!file) return fail("cannot write %s: %s", path, strerror(errno));
    size_t size = tensor_bytes(tensor), written = fwrite(tensor->data, 1, size, file);
    if (fclose(file) || written != size) return fail("cannot write %s: %s", path, strerror(errno));
    return 0;
}

static void print_output(int index, const char *path) {
    const DLTensor *tensor = &model_tensors[model_outputs[index].tensor];
    fprintf(answers, "%s{\"path\": ", index ? ", " : "");
    print_json(answers, path);
    fputs(", \"shape\": [", answers);
    for (int i = 0; i < tensor->ndim; i++)
        fprintf(answers, "%s%lld", i ? ", " : "", (long long)tensor->shape[i]);
    fprintf(answers, "], \"dtype\": \"%s\"}", model_outputs[index].dtype);
}

static int infer(const struct json *inputs, const char *folder) {
    char path[4096];
    const struct json *file = inputs->first;
    for (int i = 0; i < model_input_count; i++, file = file->next) {
        if (file->kind != JSON_STRING) return fail("inputs must be paths");
        if (read_input(&model_inputs[i], file->text)) return -1;
    }
    if (run_model()) return -1;
    for (int i = 0; i < model_output_count; i++)
        if (write_output(i, folder, path, sizeof path)) return -1;
    fputs("{\"outputs\": [", answers);
    for (int i = 0; i < model_output_count; i++) {
        snprintf(path, sizeof path, "%s/output%d.bin", folder, i);
        print_output(i, path);
    }
    fputs("]}\n", answers);
    return 0;
}

int answer_infer(const struct json *request) {
    const struct json *inputs = member(request, "inputs"), *folder = member(request, "outputs");
    if (!inputs || inputs->kind != JSON_ARRAY) return fail("inputs must be a list of paths");
    if (!folder || folder->kind != JSON_STRING) return fail("outputs must be the path of a folder");
    if (inputs->count != model_input_count)
        return fail("the program takes %d inputs, got %d files", model_input_count, inputs->count);
    int failed = infer(inputs, folder->text);
    make_inputs();
    return failed;
}
