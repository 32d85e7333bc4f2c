/* The C interface, but for the layers. */
#include "model.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "processor.h"

enum { CHANNELS = VIGMPI_CHANNELS, MAX_PIXELS = 1 << 28 };

static int damaged(const vigmpi_model *model, const char *what)
{
    return vigmpi_fail(VIGMPI_INPUT, "damaged manifest: %s/manifest.toml (%s). Run vigmpi export again.",
                       model->manifest.folder, what);
}

/* Check the form, and take the type of the values. */
static int read_kind(vigmpi_model *model)
{
    struct vigmpi_manifest *manifest = &model->manifest;
    const char *form = "", *dtype = "";
    int count, status = vigmpi_manifest_strings(manifest, -1, "form", &form, 1, &count);
    if (!status && strcmp(form, VIGMPI_FORM) != 0)
        return vigmpi_fail(VIGMPI_INPUT, "export of another form: %s in %s. Use the library for it.", form,
                           manifest->folder);
    if (!status)
        status = vigmpi_manifest_strings(manifest, -1, "dtype", &dtype, 1, &count);
    if (status)
        return status;
    model->value_bytes = strcmp(dtype, "float64") == 0 ? sizeof(double) : sizeof(float);
    if (model->value_bytes == sizeof(float) && strcmp(dtype, "float32") != 0)
        return damaged(model, "dtype");
    return VIGMPI_OK;
}

static int read_images(vigmpi_model *model)
{
    const struct vigmpi_manifest *manifest = &model->manifest;
    double size[VIGMPI_MAX_NUMBERS], mean[VIGMPI_MAX_NUMBERS], std[VIGMPI_MAX_NUMBERS];
    int count = 0, num_means = 0, num_stds = 0;
    int status = vigmpi_manifest_numbers(manifest, -1, "image_size", size, &count);
    if (!status)
        status = vigmpi_manifest_numbers(manifest, -1, "mean", mean, &num_means);
    if (!status)
        status = vigmpi_manifest_numbers(manifest, -1, "std", std, &num_stds);
    if (status)
        return status;
    if (count != 2 || !(size[0] >= 1 && size[1] >= 1 && size[0] * size[1] <= MAX_PIXELS))
        return damaged(model, "image_size");
    if (num_means != CHANNELS || num_stds != CHANNELS)
        return damaged(model, "mean or std");
    model->height = (int)size[0];
    model->width = (int)size[1];
    for (int c = 0; c < CHANNELS; c++) {
        if (!(std[c] >= 0))
            return damaged(model, "std");
        model->mean[c] = mean[c];
        model->std[c] = std[c] > 0 ? std[c] : 1; /* a constant channel has nothing to scale */
    }
    return VIGMPI_OK;
}

static int read_classes(vigmpi_model *model)
{
    struct vigmpi_manifest *manifest = &model->manifest;
    int count, status = vigmpi_manifest_whole(manifest, -1, "num_classes", &model->num_classes);
    if (status)
        return status;
    if (model->num_classes < 1)
        return damaged(model, "num_classes");
    model->class_names = calloc((size_t)model->num_classes, sizeof *model->class_names);
    if (!model->class_names)
        return vigmpi_fail(VIGMPI_FAILURE, "not enough memory: %d classes. Close a model.",
                           model->num_classes);
    status = vigmpi_manifest_strings(manifest, -1, "classes", model->class_names, model->num_classes, &count);
    return !status && count != model->num_classes ? damaged(model, "classes") : status;
}

static int open_layers(vigmpi_model *model, int first, int num_layers)
{
    int all = model->manifest.num_layers;
    if (!all)
        return damaged(model, "no layers");
    if (first < 0 || num_layers < 0 || first >= all || num_layers > all - first)
        return vigmpi_fail(VIGMPI_INPUT, "no such layers: %d from %d on. Use those of 0 to %d.", num_layers,
                           first, all - 1);
    int status = vigmpi_layers_open(model, first, num_layers ? num_layers : all - first);
    size_t image = (size_t)CHANNELS * (size_t)model->height * (size_t)model->width;
    if (!status && (model->input_values > INT_MAX || model->output_values > INT_MAX ||
                    (first == 0 && model->input_values != image)))
        status = damaged(model, "shapes of layers");
    return status;
}

int vigmpi_open(const char *folder, int first, int num_layers, vigmpi_model **opened)
{
    int status = vigmpi_check_processor();
    *opened = NULL;
    if (status)
        return status;
    vigmpi_model *model = calloc(1, sizeof *model);
    if (!model)
        return vigmpi_fail(VIGMPI_FAILURE, "not enough memory: a model. Close another one.");
    status = vigmpi_manifest_read(folder, &model->manifest);
    if (!status)
        status = read_kind(model);
    if (!status)
        status = read_images(model);
    if (!status)
        status = read_classes(model);
    if (!status)
        status = open_layers(model, first, num_layers);
    if (status)
        vigmpi_close(model);
    else
        *opened = model;
    return status;
}

void vigmpi_close(vigmpi_model *model)
{
    if (!model)
        return;
    vigmpi_layers_close(model->layers);
    free(model->class_names);
    vigmpi_manifest_free(&model->manifest);
    free(model);
}

static int no_images(int num_images)
{
    return vigmpi_fail(VIGMPI_INPUT, "no images: num_images is %d. Pass at least 1.", num_images);
}

int vigmpi_run(vigmpi_model *model, const void *input, int num_images, void *output)
{
    if (num_images < 1)
        return no_images(num_images);
    if (num_images > model->max_images)
        return vigmpi_fail(VIGMPI_INPUT, "batch too large: %d images, and the export takes at most %d. Use "
                           "smaller batches, or export with --max-batch-size.", num_images, model->max_images);
    return vigmpi_layers_run(model, input, num_images, output);
}

int vigmpi_input_values(const vigmpi_model *model)
{
    return (int)model->input_values;
}

int vigmpi_output_values(const vigmpi_model *model)
{
    return (int)model->output_values;
}

int vigmpi_value_bytes(const vigmpi_model *model)
{
    return model->value_bytes;
}

int vigmpi_max_images(const vigmpi_model *model)
{
    return model->max_images;
}

void vigmpi_image_size(const vigmpi_model *model, int *height, int *width)
{
    *height = model->height;
    *width = model->width;
}

int vigmpi_num_layers(const vigmpi_model *model)
{
    return model->manifest.num_layers;
}

int vigmpi_normalize(const vigmpi_model *model, const unsigned char *pixels, int num_images,
                     void *values)
{
    size_t num_nodes = (size_t)model->height * (size_t)model->width, at = 0;
    if (num_images < 1)
        return no_images(num_images);
    for (size_t image = 0; image < (size_t)num_images; image++)
        for (size_t c = 0; c < CHANNELS; c++)
            for (size_t i = 0; i < num_nodes; i++, at++) {
                unsigned char pixel = pixels[CHANNELS * (image * num_nodes + i) + c];
                double value = (pixel / 255.0 - model->mean[c]) / model->std[c];
                if (model->value_bytes == sizeof(double))
                    ((double *)values)[at] = value;
                else
                    ((float *)values)[at] = (float)value;
            }
    return VIGMPI_OK;
}

const char *vigmpi_class_name(const vigmpi_model *model, int index)
{
    return index >= 0 && index < model->num_classes ? model->class_names[index] : NULL;
}
