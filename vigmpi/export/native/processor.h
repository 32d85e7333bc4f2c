/* Check of the processor, compiled for any of them. */
#ifndef VIGMPI_PROCESSOR_H
#define VIGMPI_PROCESSOR_H

/* Fail if this processor lacks instructions for which the library was compiled. */
int vigmpi_check_processor(void);

#endif
