/* The requests of the protocol: each writes its answer, or returns -1 after fail() and writes nothing. */
#ifndef EDGEWRIGHT_REQUESTS_H
#define EDGEWRIGHT_REQUESTS_H

#include <stdio.h>

#include "json.h"
#include "model.h"

extern FILE *answers;

int answer_time(const struct json *request);
int answer_time_for(const struct json *request);
int answer_count(const struct json *request);
int answer_memory(const struct json *request);
int answer_profile(const struct json *request);
int answer_infer(const struct json *request);

#endif
