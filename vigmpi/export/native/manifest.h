/* Reader of manifest.toml: the subset of TOML that `vigmpi export` writes. */
#ifndef VIGMPI_MANIFEST_H
#define VIGMPI_MANIFEST_H

#include <stddef.h>

enum { VIGMPI_MAX_NUMBERS = 8 };

/* A line KEY = VALUE; both are zero-terminated parts of the manifest's text. */
struct vigmpi_entry {
    char *key, *value;
    int layer; /* index of the [[layers]] table that it belongs to, or -1 */
};

struct vigmpi_manifest {
    char *folder, *text;
    struct vigmpi_entry *entries;
    int num_entries, num_layers;
};

/* Read the manifest of an export; on failure, nothing is left to be freed. */
int vigmpi_manifest_read(const char *folder, struct vigmpi_manifest *manifest);
void vigmpi_manifest_free(struct vigmpi_manifest *manifest);

/* Take the strings of an array or a single string. They are parts of the text, unescaped; a value
   can be taken once. */
int vigmpi_manifest_strings(struct vigmpi_manifest *manifest, int layer, const char *key,
                            const char **strings, int max_strings, int *count);
int vigmpi_manifest_numbers(const struct vigmpi_manifest *manifest, int layer, const char *key,
                            double numbers[VIGMPI_MAX_NUMBERS], int *count);
/* The same for a single whole number from 0 on. */
int vigmpi_manifest_whole(const struct vigmpi_manifest *manifest, int layer, const char *key,
                          int *value);

/* Read the file that a layer's table names with `file`, `bytes` and `sha256`, each behind this
   prefix, and compare it with these. Path and content are to be freed, after failures too. */
int vigmpi_manifest_file(struct vigmpi_manifest *manifest, int layer, const char *prefix, char **path,
                         unsigned char **content, size_t *size);

#endif
