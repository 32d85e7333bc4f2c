#define _GNU_SOURCE /* strtod_l */
#include "manifest.h"

#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"
#include "sha256.h"

enum { MAX_MANIFEST_BYTES = 1 << 22 };

static const char FORMAT[] = "vigmpi export 1";
static const char REMEDY[] = "Run vigmpi export again";

/* Read a whole file of at most max_size bytes, with a zero behind its end. */
static int read_file(const char *path, size_t max_size, unsigned char **content, size_t *size)
{
    struct stat status;
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe does not block */
    *content = NULL;
    if (file < 0)
        return vigmpi_fail(VIGMPI_INPUT, "cannot read file: %s (%s). Use the folder of an export.",
                           path, strerror(errno));
    if (fstat(file, &status) != 0 || !S_ISREG(status.st_mode) ||
        (uintmax_t)status.st_size > max_size) {
        close(file);
        return vigmpi_fail(VIGMPI_INPUT, "changed file: %s is not the one exported. %s.", path, REMEDY);
    }
    *size = (size_t)status.st_size;
    *content = malloc(*size + 1);
    if (!*content) {
        close(file);
        return vigmpi_fail(VIGMPI_FAILURE, "not enough memory: %zu bytes. Close a model.", *size);
    }
    size_t done = 0;
    ssize_t count = 1;
    while (done < *size && (count = read(file, *content + done, *size - done)) > 0)
        done += (size_t)count;
    close(file);
    (*content)[done] = 0;
    if (done == *size)
        return VIGMPI_OK;
    free(*content);
    *content = NULL;
    return vigmpi_fail(VIGMPI_INPUT, "cannot read file: %s (%s). %s.", path,
                       count < 0 ? strerror(errno) : "it became shorter", REMEDY);
}

static int join(const char *folder, const char *name, char **path)
{
    size_t size = strlen(folder) + strlen(name) + 2;
    *path = malloc(size);
    if (!*path)
        return vigmpi_fail(VIGMPI_FAILURE, "not enough memory: %zu bytes. Close a model.", size);
    snprintf(*path, size, "%s/%s", folder, name);
    return VIGMPI_OK;
}

static int damaged(const struct vigmpi_manifest *manifest, int layer, const char *key)
{
    if (layer < 0)
        return vigmpi_fail(VIGMPI_INPUT, "damaged manifest: %s/manifest.toml (%s). %s.",
                           manifest->folder, key, REMEDY);
    return vigmpi_fail(VIGMPI_INPUT, "damaged manifest: %s/manifest.toml (%s of layer %d). %s.",
                       manifest->folder, key, layer, REMEDY);
}

/* Cut the text into entries. Lines without " = " that start no table are ignored. */
static int parse(struct vigmpi_manifest *manifest)
{
    int num_lines = 1;
    for (char *c = manifest->text; *c; c++)
        num_lines += *c == '\n';
    manifest->entries = calloc((size_t)num_lines, sizeof *manifest->entries);
    if (!manifest->entries)
        return vigmpi_fail(VIGMPI_FAILURE, "not enough memory: %d lines. Close a model.", num_lines);
    char *rest;
    for (char *line = strtok_r(manifest->text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        char *separator = strstr(line, " = ");
        if (strcmp(line, "[[layers]]") == 0) {
            manifest->num_layers++;
        } else if (separator) {
            *separator = 0;
            struct vigmpi_entry entry = {line, separator + 3, manifest->num_layers - 1};
            manifest->entries[manifest->num_entries++] = entry;
        }
    }
    return VIGMPI_OK;
}

int vigmpi_manifest_read(const char *folder, struct vigmpi_manifest *manifest)
{
    char *path;
    unsigned char *text;
    size_t size;
    const char *format = "";
    int count, status = join(folder, "manifest.toml", &path);
    memset(manifest, 0, sizeof *manifest);
    if (status)
        return status;
    status = read_file(path, MAX_MANIFEST_BYTES, &text, &size);
    free(path);
    if (status)
        return status;
    manifest->text = (char *)text;
    manifest->folder = strdup(folder);
    if (!manifest->folder)
        status = vigmpi_fail(VIGMPI_FAILURE, "not enough memory: the name of a folder. Close a model.");
    if (!status && strlen(manifest->text) != size)
        status = damaged(manifest, -1, "a zero byte");
    if (!status)
        status = parse(manifest);
    if (!status)
        status = vigmpi_manifest_strings(manifest, -1, "format", &format, 1, &count);
    if (!status && strcmp(format, FORMAT) != 0)
        status = vigmpi_fail(VIGMPI_INPUT, "unknown format: %s of %s. Use a program of its version.",
                             format, folder);
    if (status)
        vigmpi_manifest_free(manifest);
    return status;
}

void vigmpi_manifest_free(struct vigmpi_manifest *manifest)
{
    free(manifest->entries);
    free(manifest->folder);
    free(manifest->text);
    memset(manifest, 0, sizeof *manifest);
}

static char *find(const struct vigmpi_manifest *manifest, int layer, const char *key)
{
    for (int i = 0; i < manifest->num_entries; i++)
        if (manifest->entries[i].layer == layer && strcmp(manifest->entries[i].key, key) == 0)
            return manifest->entries[i].value;
    return NULL;
}

/* Append a character as UTF-8. */
static char *put(char *out, unsigned long c)
{
    if (c < 0x80) {
        *out++ = (char)c;
    } else if (c < 0x800) {
        *out++ = (char)(0xc0 | c >> 6);
        *out++ = (char)(0x80 | (c & 0x3f));
    } else if (c < 0x10000) {
        *out++ = (char)(0xe0 | c >> 12);
        *out++ = (char)(0x80 | (c >> 6 & 0x3f));
        *out++ = (char)(0x80 | (c & 0x3f));
    } else {
        *out++ = (char)(0xf0 | c >> 18);
        *out++ = (char)(0x80 | (c >> 12 & 0x3f));
        *out++ = (char)(0x80 | (c >> 6 & 0x3f));
        *out++ = (char)(0x80 | (c & 0x3f));
    }
    return out;
}

/* Unescape a basic string behind its opening quote, in place, and return what follows its closing
   quote, or NULL. An escape is never shorter than what it stands for. */
static char *unescape(char *in)
{
    char *out = in;
    while (*in && *in != '"') {
        if (*in != '\\') {
            *out++ = *in++;
            continue;
        }
        in++;
        if (*in == '"' || *in == '\\') {
            *out++ = *in++;
        } else if (*in == 'u' || *in == 'U') {
            int digits = *in == 'u' ? 4 : 8;
            char number[9] = {0};
            strncpy(number, in + 1, (size_t)digits);
            char *end;
            unsigned long c = strtoul(number, &end, 16);
            if (end != number + digits || c == 0 || c > 0x10ffff)
                return NULL;
            out = put(out, c);
            in += 1 + digits;
        } else {
            return NULL;
        }
    }
    if (!*in)
        return NULL;
    in++;
    *out = 0;
    return in;
}

int vigmpi_manifest_strings(struct vigmpi_manifest *manifest, int layer, const char *key,
                            const char **strings, int max_strings, int *count)
{
    char *text = find(manifest, layer, key);
    if (!text)
        return damaged(manifest, layer, key);
    int is_array = *text == '[';
    text += is_array;
    for (*count = 0; text && *text == '"' && *count < max_strings; ++*count) {
        strings[*count] = ++text;
        text = unescape(text);
        if (text && is_array && text[0] == ',' && text[1] == ' ')
            text += 2;
    }
    if (!text || strcmp(text, is_array ? "]" : "") != 0 || *count == 0)
        return damaged(manifest, layer, key);
    return VIGMPI_OK;
}

int vigmpi_manifest_numbers(const struct vigmpi_manifest *manifest, int layer, const char *key,
                            double numbers[VIGMPI_MAX_NUMBERS], int *count)
{
    const char *text = find(manifest, layer, key);
    locale_t c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0); /* others have decimal commas */
    if (!text || !c_locale) {
        if (c_locale)
            freelocale(c_locale);
        return damaged(manifest, layer, key);
    }
    int is_array = *text == '[';
    text += is_array;
    for (*count = 0; *count < VIGMPI_MAX_NUMBERS && *text && *text != ']'; ++*count) {
        char *end;
        numbers[*count] = strtod_l(text, &end, c_locale);
        if (end == text)
            break;
        text = strncmp(end, ", ", 2) == 0 ? end + 2 : end;
    }
    freelocale(c_locale);
    if (strcmp(text, is_array ? "]" : "") != 0)
        return damaged(manifest, layer, key);
    return VIGMPI_OK;
}

int vigmpi_manifest_whole(const struct vigmpi_manifest *manifest, int layer, const char *key,
                          int *value)
{
    double numbers[VIGMPI_MAX_NUMBERS];
    int count, status = vigmpi_manifest_numbers(manifest, layer, key, numbers, &count);
    if (status)
        return status;
    if (count != 1 || !(numbers[0] >= 0 && numbers[0] <= INT32_MAX))
        return damaged(manifest, layer, key);
    *value = (int)numbers[0];
    return (double)*value == numbers[0] ? VIGMPI_OK : damaged(manifest, layer, key);
}

int vigmpi_manifest_file(struct vigmpi_manifest *manifest, int layer, const char *prefix, char **path,
                         unsigned char **content, size_t *size)
{
    const char *name = "", *expected = "";
    char key[64], digest[65];
    int count, size_bytes;
    *path = NULL;
    *content = NULL;
    snprintf(key, sizeof key, "%sfile", prefix);
    int status = vigmpi_manifest_strings(manifest, layer, key, &name, 1, &count);
    if (!status && (strchr(name, '/') || *name == '.'))
        status = damaged(manifest, layer, key);
    snprintf(key, sizeof key, "%ssha256", prefix);
    if (!status)
        status = vigmpi_manifest_strings(manifest, layer, key, &expected, 1, &count);
    snprintf(key, sizeof key, "%sbytes", prefix);
    if (!status)
        status = vigmpi_manifest_whole(manifest, layer, key, &size_bytes);
    if (!status)
        status = join(manifest->folder, name, path);
    if (!status)
        status = read_file(*path, (size_t)size_bytes, content, size);
    if (status)
        return status;
    vigmpi_sha256(*content, *size, digest);
    if (*size != (size_t)size_bytes || strcmp(digest, expected) != 0)
        status = vigmpi_fail(VIGMPI_INPUT, "changed file: %s is not the one exported. %s.", *path, REMEDY);
    return status;
}
