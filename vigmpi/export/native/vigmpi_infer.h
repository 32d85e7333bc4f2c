/* Inference with the layers that `vigmpi export` has written.

   A handle runs consecutive layers of one model on images; several handles may exist at the same
   time, and each may be used by one thread at a time. No function ends the process. None prints,
   but torch may when a package fails.
   Functions that return an int return VIGMPI_OK or the kind of the error, which
   vigmpi_last_error() describes. */
#ifndef VIGMPI_INFER_H
#define VIGMPI_INFER_H

#ifdef __cplusplus
extern "C" {
#endif

enum vigmpi_status {
    VIGMPI_OK = 0,
    VIGMPI_INPUT = 1,  /* the folder, a file in it or an argument cannot be used */
    VIGMPI_FAILURE = 2 /* the memory does not suffice, or the computation failed */
};

typedef struct vigmpi_model vigmpi_model;

/* Open layers first, first + 1, ... of an export; all from `first` on if num_layers is 0.
   The files are compared with their digests. */
int vigmpi_open(const char *folder, int first, int num_layers, vigmpi_model **model);

/* Run the layers on num_images images, at least 1 and at most the export's largest batch.
   input:  [num_images, values of the first layer's input], as the manifest describes them
   output: [num_images, values of the last layer's output] */
int vigmpi_run(vigmpi_model *model, const void *input, int num_images, void *output);

/* Free a handle; NULL is allowed. */
void vigmpi_close(vigmpi_model *model);

/* Numbers of an image's values, and the bytes of each: 4 for floats, 8 for doubles. */
int vigmpi_input_values(const vigmpi_model *model);
int vigmpi_output_values(const vigmpi_model *model);
int vigmpi_value_bytes(const vigmpi_model *model);

/* Largest number of images that vigmpi_run takes. */
int vigmpi_max_images(const vigmpi_model *model);

/* Height and width of the model's images, in pixels. */
void vigmpi_image_size(const vigmpi_model *model, int *height, int *width);

/* Number of layers of the whole model. */
int vigmpi_num_layers(const vigmpi_model *model);

/* Convert pixels [num_images, height, width, 3] to the input of layer 0, normalised as in
   training: values [num_images, 3, height, width]. */
int vigmpi_normalize(const vigmpi_model *model, const unsigned char *pixels, int num_images,
                     void *values);

/* Return the name of a class in UTF-8, or NULL; valid until the handle is closed. */
const char *vigmpi_class_name(const vigmpi_model *model, int index);

/* Return one line about the last error of this thread. */
const char *vigmpi_last_error(void);

#ifdef __cplusplus
}
#endif
#endif
