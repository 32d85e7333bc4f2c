#include "error.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local char message[1024];

int vigmpi_fail(enum vigmpi_status status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    for (char *c = message; *c; c++) /* one line, whatever the names of files are */
        if ((unsigned char)*c < ' ')
            *c = ' ';
    return status;
}

const char *vigmpi_last_error(void)
{
    return message;
}
