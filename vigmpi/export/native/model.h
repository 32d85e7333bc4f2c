/* A handle, and what the two forms of an export implement: packages (packages.cpp), and the study's
   model in C (study.c). */
#ifndef VIGMPI_MODEL_H
#define VIGMPI_MODEL_H

#include <stddef.h>

#include "manifest.h"
#include "vigmpi_infer.h"

enum { VIGMPI_CHANNELS = 3 };

struct vigmpi_layers;

struct vigmpi_model {
    struct vigmpi_manifest manifest;
    int height, width, num_classes, value_bytes;
    const char **class_names;
    double mean[VIGMPI_CHANNELS], std[VIGMPI_CHANNELS];
    /* Set by vigmpi_layers_open: */
    size_t input_values, output_values; /* of an image */
    int max_images;
    struct vigmpi_layers *layers;
};

/* The form's name in the manifest. */
extern const char VIGMPI_FORM[];

/* Read layers first, ..., first + num_layers - 1 of the manifest. After a failure, the layers are
   closed. */
int vigmpi_layers_open(struct vigmpi_model *model, int first, int num_layers);
int vigmpi_layers_run(struct vigmpi_model *model, const void *input, int num_images, void *output);
void vigmpi_layers_close(struct vigmpi_layers *layers);

#endif
