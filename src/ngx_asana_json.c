
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * A strict scanner (RFC 8259) for one member of an object, such as
 *
 *     {"data":{"gid":"12","active":false},"X-Hook-Secret":"b537207f"}
 *
 * and what text needs to stand in such a string.
 */


#include "ngx_asana_json.h"


#define NGX_ASANA_JSON_DEPTH  64
#define NGX_ASANA_JSON_NAME   32


typedef struct {
    u_char        *pos;
    u_char        *last;
    ngx_str_t     *path;      /* names, from the outermost object on */
    ngx_uint_t     names;     /* 1 or 2 */
    ngx_uint_t     level;     /* of the object that may have the next one */
    ngx_uint_t     found[2];
    ngx_str_t     *value;     /* what was found */
    size_t         max;       /* room for it */
} ngx_asana_json_t;


static ngx_int_t ngx_asana_json_find(u_char *p, size_t len, ngx_str_t *path,
    ngx_uint_t names, ngx_str_t *value);
static ngx_int_t ngx_asana_json_items(ngx_asana_json_t *j, ngx_uint_t level,
    u_char end);
static ngx_int_t ngx_asana_json_name(ngx_asana_json_t *j, ngx_uint_t level,
    ngx_uint_t *match);
static ngx_int_t ngx_asana_json_matched(ngx_asana_json_t *j,
    ngx_uint_t level);
static ngx_int_t ngx_asana_json_value(ngx_asana_json_t *j, ngx_uint_t level);
static ngx_int_t ngx_asana_json_string(ngx_asana_json_t *j, u_char *buf,
    size_t size, size_t *len);
static ngx_int_t ngx_asana_json_unescape(ngx_asana_json_t *j, u_char *ch);
static ngx_int_t ngx_asana_json_hex(ngx_asana_json_t *j);
static ngx_int_t ngx_asana_json_word(ngx_asana_json_t *j, const char *word);
static ngx_int_t ngx_asana_json_number(ngx_asana_json_t *j);
static ngx_uint_t ngx_asana_json_digits(ngx_asana_json_t *j);
static ngx_uint_t ngx_asana_json_skip(ngx_asana_json_t *j, u_char ch);
static u_char ngx_asana_json_next(ngx_asana_json_t *j);
static size_t ngx_asana_json_utf8(u_char *p, u_char *last, uint32_t *code);
static ngx_uint_t ngx_asana_json_hidden(uint32_t code);


ngx_int_t
ngx_asana_json_member(u_char *p, size_t len, ngx_str_t *name,
    ngx_str_t *value)
{
    return ngx_asana_json_find(p, len, name, 1, value);
}


ngx_int_t
ngx_asana_json_inner(u_char *p, size_t len, ngx_str_t path[2],
    ngx_str_t *value)
{
    return ngx_asana_json_find(p, len, path, 2, value);
}


static ngx_int_t
ngx_asana_json_find(u_char *p, size_t len, ngx_str_t *path, ngx_uint_t names,
    ngx_str_t *value)
{
    ngx_asana_json_t  j;

    j.pos = p;
    j.last = p + len;
    j.path = path;
    j.names = names;
    j.level = 1;
    j.found[0] = 0;
    j.found[1] = 0;
    j.value = value;
    j.max = value->len;

    if (ngx_asana_json_next(&j) != '{'
        || ngx_asana_json_items(&j, 1, '}') != NGX_OK)
    {
        return NGX_ERROR;
    }

    (void) ngx_asana_json_next(&j);

    if (j.pos != j.last) {
        return NGX_ERROR;
    }

    return j.found[names - 1] ? NGX_OK : NGX_DECLINED;
}


/* the members of an object or the elements of an array, from its bracket */

static ngx_int_t
ngx_asana_json_items(ngx_asana_json_t *j, ngx_uint_t level, u_char end)
{
    ngx_int_t   rc;
    ngx_uint_t  match;

    match = 0;
    j->pos++;

    if (ngx_asana_json_next(j) == end) {
        j->pos++;
        return NGX_OK;
    }

    for ( ;; ) {

        if (end == '}'
            && ngx_asana_json_name(j, level, &match) != NGX_OK)
        {
            return NGX_ERROR;
        }

        rc = match ? ngx_asana_json_matched(j, level)
                   : ngx_asana_json_value(j, level + 1);

        if (rc != NGX_OK || j->value->len > j->max) {
            return NGX_ERROR;
        }

        (void) ngx_asana_json_next(j);

        if (ngx_asana_json_skip(j, end)) {
            return NGX_OK;
        }

        if (!ngx_asana_json_skip(j, ',')) {
            return NGX_ERROR;
        }
    }
}


static ngx_int_t
ngx_asana_json_name(ngx_asana_json_t *j, ngx_uint_t level, ngx_uint_t *match)
{
    size_t      len;
    u_char      buf[NGX_ASANA_JSON_NAME];
    ngx_str_t  *name;

    if (ngx_asana_json_next(j) != '"'
        || ngx_asana_json_string(j, buf, sizeof(buf), &len) != NGX_OK
        || ngx_asana_json_next(j) != ':')
    {
        return NGX_ERROR;
    }

    j->pos++;

    *match = 0;

    if (level == j->level) {
        name = &j->path[level - 1];
        *match = (len == name->len && ngx_memcmp(buf, name->data, len) == 0);
    }

    return NGX_OK;
}


/* the value of a member that is looked for, or of one on the way to it */

static ngx_int_t
ngx_asana_json_matched(ngx_asana_json_t *j, ngx_uint_t level)
{
    ngx_int_t  rc;

    if (j->found[level - 1]++) {
        return NGX_ERROR;
    }

    if (level == j->names) {
        return (ngx_asana_json_next(j) == '"')
               ? ngx_asana_json_string(j, j->value->data, j->max,
                                       &j->value->len)
               : NGX_ERROR;
    }

    j->level++;
    rc = ngx_asana_json_value(j, level + 1);
    j->level--;

    return rc;
}


static ngx_int_t
ngx_asana_json_value(ngx_asana_json_t *j, ngx_uint_t level)
{
    u_char  ch;
    size_t  len;

    if (level > NGX_ASANA_JSON_DEPTH + 1) {
        return NGX_ERROR;
    }

    ch = ngx_asana_json_next(j);

    switch (ch) {

    case '{':
    case '[':
        return ngx_asana_json_items(j, level, (ch == '{') ? '}' : ']');

    case '"':
        return ngx_asana_json_string(j, NULL, 0, &len);

    case 't':
        return ngx_asana_json_word(j, "true");

    case 'f':
        return ngx_asana_json_word(j, "false");

    case 'n':
        return ngx_asana_json_word(j, "null");

    default:
        return ngx_asana_json_number(j);
    }
}


/* from its first quote; writes to buf what fits, counts what does not */

static ngx_int_t
ngx_asana_json_string(ngx_asana_json_t *j, u_char *buf, size_t size,
    size_t *len)
{
    u_char  ch;
    size_t  n;

    n = 0;

    for (j->pos++; j->pos < j->last; n++) {

        ch = *j->pos++;

        if (ch == '"') {
            *len = n;
            return NGX_OK;
        }

        if (ch < ' '
            || (ch == '\\' && ngx_asana_json_unescape(j, &ch) != NGX_OK))
        {
            return NGX_ERROR;
        }

        if (n < size) {
            buf[n] = ch;
        }
    }

    return NGX_ERROR;
}


/* what is no ASCII becomes 0x80, for nobody looks for it */

static ngx_int_t
ngx_asana_json_unescape(ngx_asana_json_t *j, u_char *ch)
{
    u_char     *p;
    ngx_int_t   code, low;

    static u_char  from[] = "\"\\/bfnrt";
    static u_char  to[] = "\"\\/\b\f\n\r\t";

    if (j->pos == j->last) {
        return NGX_ERROR;
    }

    *ch = *j->pos++;

    if (*ch != 'u') {
        p = ngx_strlchr(from, from + sizeof(from) - 1, *ch);
        if (p == NULL) {
            return NGX_ERROR;
        }

        *ch = to[p - from];

        return NGX_OK;
    }

    code = ngx_asana_json_hex(j);

    if (code >= 0xd800 && code <= 0xdfff) {

        /* a pair of surrogates */

        if (code > 0xdbff
            || !ngx_asana_json_skip(j, '\\')
            || !ngx_asana_json_skip(j, 'u'))
        {
            return NGX_ERROR;
        }

        low = ngx_asana_json_hex(j);

        if (low < 0xdc00 || low > 0xdfff) {
            return NGX_ERROR;
        }
    }

    *ch = (u_char) ngx_min(code, 0x80);

    return (code == NGX_ERROR) ? NGX_ERROR : NGX_OK;
}


static ngx_int_t
ngx_asana_json_hex(ngx_asana_json_t *j)
{
    ngx_int_t  code;

    if (j->last - j->pos < 4) {
        return NGX_ERROR;
    }

    code = ngx_hextoi(j->pos, 4);
    j->pos += 4;

    return code;
}


static ngx_int_t
ngx_asana_json_word(ngx_asana_json_t *j, const char *word)
{
    while (*word) {
        if (!ngx_asana_json_skip(j, *word++)) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_asana_json_number(ngx_asana_json_t *j)
{
    (void) ngx_asana_json_skip(j, '-');

    if (!ngx_asana_json_skip(j, '0') && !ngx_asana_json_digits(j)) {
        return NGX_ERROR;
    }

    if (ngx_asana_json_skip(j, '.') && !ngx_asana_json_digits(j)) {
        return NGX_ERROR;
    }

    if (ngx_asana_json_skip(j, 'e') || ngx_asana_json_skip(j, 'E')) {

        if (!ngx_asana_json_skip(j, '+')) {
            (void) ngx_asana_json_skip(j, '-');
        }

        return ngx_asana_json_digits(j) ? NGX_OK : NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_uint_t
ngx_asana_json_digits(ngx_asana_json_t *j)
{
    u_char  *start;

    start = j->pos;

    while (j->pos < j->last && *j->pos >= '0' && *j->pos <= '9') {
        j->pos++;
    }

    return j->pos > start;
}


static ngx_uint_t
ngx_asana_json_skip(ngx_asana_json_t *j, u_char ch)
{
    if (j->pos == j->last || *j->pos != ch) {
        return 0;
    }

    j->pos++;

    return 1;
}


/* the next character that is no white space, or 0 at the end */

static u_char
ngx_asana_json_next(ngx_asana_json_t *j)
{
    while (j->pos < j->last
           && (*j->pos == ' ' || *j->pos == '\t' || *j->pos == CR
               || *j->pos == LF))
    {
        j->pos++;
    }

    return (j->pos < j->last) ? *j->pos : 0;
}


size_t
ngx_asana_json_escape(u_char *dst, ngx_str_t *text)
{
    u_char    buf[6], *end, *last, *p;
    size_t    len, n;
    uint32_t  code;

    len = 0;
    last = text->data + text->len;

    for (p = text->data; p < last; p += n) {

        n = ngx_asana_json_utf8(p, last, &code);

        if (n == 0) {
            n = 1;
            end = ngx_cpymem(buf, "\\ufffd", 6);

        } else if (ngx_asana_json_hidden(code)) {
            end = ngx_sprintf(buf, "\\u%04xD", code);

        } else {
            end = buf;

            if (code == '"' || code == '\\') {
                *end++ = '\\';
            }

            end = ngx_cpymem(end, p, n);
        }

        if (dst) {
            dst = ngx_cpymem(dst, buf, end - buf);
        }

        len += end - buf;
    }

    return len;
}


/*
 * The length of the character at p (RFC 3629, 4), 0 if it is none, and its
 * code: ngx_utf8_decode() knows no ASCII, and lets pass what is malformed.
 */

static size_t
ngx_asana_json_utf8(u_char *p, u_char *last, uint32_t *code)
{
    u_char  c, low, high;
    size_t  i, n;

    c = *p;
    *code = c;

    if (c < 0x80) {
        return 1;
    }

    if (c < 0xc2 || c > 0xf4) {
        return 0;
    }

    n = (c < 0xe0) ? 2 : (c < 0xf0) ? 3 : 4;

    if ((size_t) (last - p) < n) {
        return 0;
    }

    *code = c & (0x7f >> n);

    /* neither overlong, nor surrogates, nor above U+10FFFF */

    low = (c == 0xe0) ? 0xa0 : (c == 0xf0) ? 0x90 : 0x80;
    high = (c == 0xed) ? 0x9f : (c == 0xf4) ? 0x8f : 0xbf;

    for (i = 1; i < n; i++) {

        if (p[i] < low || p[i] > high) {
            return 0;
        }

        *code = *code << 6 | (p[i] & 0x3f);

        low = 0x80;
        high = 0xbf;
    }

    return n;
}


/* what is not seen, or changes how the text around it is seen */

static ngx_uint_t
ngx_asana_json_hidden(uint32_t code)
{
    return code < 0x20
           || (code >= 0x7f && code <= 0x9f)       /* DEL, C1 */
           || code == 0x061c                       /* Arabic mark */
           || code == 0x200e || code == 0x200f     /* marks */
           || (code >= 0x2028 && code <= 0x202e)   /* separators, embedding */
           || (code >= 0x2066 && code <= 0x2069);  /* isolates */
}
