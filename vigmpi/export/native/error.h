/* Errors of the current thread. */
#ifndef VIGMPI_ERROR_H
#define VIGMPI_ERROR_H

#include "vigmpi_infer.h"

/* Keep a message, formatted like printf's, and return the status. */
int vigmpi_fail(enum vigmpi_status status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
