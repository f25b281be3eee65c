/*
 * A strict JSON reader that allocates nothing: it checks a document and finds the raw bytes of a
 * member, so that they can be handed on as they came.
 *
 * read_* return the place behind what they read, or NULL where it is not there. Bytes above 0x7f
 * inside strings are let through unchecked. Nesting is bounded, so that recursion is.
 */
#include <ctype.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

enum { MAX_DEPTH = 64 };

struct span { const char *at, *end; };

static const char *json_fault; /* the furthest place at which reading stopped */

static const char *stop(const char *at) {
    if (at > json_fault) json_fault = at;
    return NULL;
}

static const char *skip_space(const char *p, const char *end) {
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r')) p++;
    return p;
}

static const char *read_string(const char *p, const char *end) {
    if (p == end || *p != '"') return stop(p);
    for (p++; p < end && *p != '"'; p++) {
        if ((unsigned char)*p < ' ') return stop(p);
        if (*p != '\\') continue;
        if (++p == end || !strchr("\"\\/bfnrtu", *p) || !*p) return stop(p);
        for (int hex = *p == 'u' ? 4 : 0; hex > 0; hex--)
            if (++p == end || !isxdigit((unsigned char)*p)) return stop(p);
    }
    return p == end ? stop(p) : p + 1;
}

static const char *read_digits(const char *p, const char *end) {
    const char *start = p;
    while (p < end && *p >= '0' && *p <= '9') p++;
    return p == start ? stop(p) : p;
}

static const char *read_number(const char *p, const char *end) {
    if (p < end && *p == '-') p++;
    const char *start = p;
    if (!(p = read_digits(p, end)) || (*start == '0' && p - start > 1)) return stop(start);
    if (p < end && *p == '.' && !(p = read_digits(p + 1, end))) return NULL;
    if (p < end && (*p == 'e' || *p == 'E')) {
        p++;
        if (p < end && (*p == '+' || *p == '-')) p++;
        p = read_digits(p, end);
    }
    return p;
}

static const char *read_word(const char *p, const char *end) {
    static const char *const words[] = {"true", "false", "null"};
    for (size_t i = 0; i < 3; i++) {
        size_t len = strlen(words[i]);
        if ((size_t)(end - p) >= len && memcmp(p, words[i], len) == 0) return p + len;
    }
    return stop(p);
}

static const char *read_value(const char *p, const char *end, int depth) {
    if (p == end) return stop(p);
    if (*p == '"') return read_string(p, end);
    if (*p == '-' || (*p >= '0' && *p <= '9')) return read_number(p, end);
    if (*p != '{' && *p != '[') return read_word(p, end);
    if (depth == MAX_DEPTH) return stop(p);
    const char close = *p == '{' ? '}' : ']';
    p = skip_space(p + 1, end);
    if (p < end && *p == close) return p + 1;
    for (;; p = skip_space(p + 1, end)) {
        if (close == '}') {
            if (!(p = read_string(p, end))) return NULL;
            p = skip_space(p, end);
            if (p == end || *p != ':') return stop(p);
            p = skip_space(p + 1, end);
        }
        if (!(p = read_value(p, end, depth + 1))) return NULL;
        p = skip_space(p, end);
        if (p < end && *p == close) return p + 1;
        if (p == end || *p != ',') return stop(p);
    }
}

/* Steps through a container that was read before; *at starts at its bracket. False at its end. */
static bool next_item(const char **at, const char *end, struct span *key, struct span *value) {
    const bool object = end[-1] == '}';
    if (*at == end - 1) return false; /* at its closing bracket */
    const char *p = skip_space(*at + 1, end);
    if (p == end - 1) return false; /* it is empty */
    if (object) {
        *key = (struct span){p, read_string(p, end)};
        p = skip_space(skip_space(key->end, end) + 1, end);
    }
    *value = (struct span){p, read_value(p, end, 0)};
    *at = skip_space(value->end, end);
    return true;
}

static bool is(struct span string, const char *text) {
    size_t len = strlen(text);
    return (size_t)(string.end - string.at) == len + 2 && memcmp(string.at + 1, text, len) == 0;
}

static bool has_escape(struct span string) {
    return memchr(string.at, '\\', (size_t)(string.end - string.at)) != NULL;
}

/* The value of a member as raw bytes (the last one counts, as in Go), null too; at is NULL where it
 * is not there. A key with an escape might be the one: that sets *unsure. */
static struct span member_or_null(struct span object, const char *name, bool *unsure) {
    struct span key, value, found = {NULL, NULL};
    if (!object.at || *object.at != '{') return found;
    const char *at = object.at;
    while (next_item(&at, object.end, &key, &value)) {
        if (is(key, name)) found = value;
        if (has_escape(key)) *unsure = true;
    }
    return found;
}

static bool is_null(struct span value) { return value.at && *value.at == 'n'; }

/* As above, with null the same as absent. */
static struct span member(struct span object, const char *name, bool *unsure) {
    struct span found = member_or_null(object, name, unsure);
    return is_null(found) ? (struct span){NULL, NULL} : found;
}

static bool is_object(struct span value) { return value.at && *value.at == '{'; }
