#include "processor.h"

#include "error.h"

/* The exporter defines VIGMPI_INSTRUCTIONS as a list of X(name) for the other files of the
   library. This one is compiled without them. */
#ifndef VIGMPI_INSTRUCTIONS
#define VIGMPI_INSTRUCTIONS
#endif

int vigmpi_check_processor(void)
{
#define X(name)                                                                                    \
    if (!__builtin_cpu_supports(name))                                                             \
        return vigmpi_fail(VIGMPI_INPUT, "processor without instructions: " name ". Run vigmpi "   \
                                         "export on a machine like this one.");
    VIGMPI_INSTRUCTIONS
#undef X
    return VIGMPI_OK;
}
