/* One line of JSON, read strictly into values that live until free_json(). */
#ifndef EDGEWRIGHT_JSON_H
#define EDGEWRIGHT_JSON_H

#include <stddef.h>
#include <stdio.h>

enum json_kind { JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT };

struct json {
    enum json_kind kind;
    double number;
    char *text;         /* UTF-8, ends with a zero; holds none inside */
    char *key;          /* in an object */
    struct json *first; /* of an array or an object */
    struct json *next;
    int count;
};

/* Returns NULL after fail() where the text is not one JSON value. */
struct json *parse_json(const char *text, size_t length);
void free_json(struct json *value);

/* The last member of that name, NULL where there is none. */
const struct json *member(const struct json *object, const char *name);

/* Writes a string with its quotes. */
void print_json(FILE *out, const char *text);

#endif
