
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * A strict scanner (RFC 8259) for one member of an object, such as
 *
 *     {"data":{"gid":"12","active":false},"X-Hook-Secret":"b537207f"}
 */


#include "ngx_http_asana_hook.h"


#define NGX_HTTP_ASANA_HOOK_JSON_DEPTH  64
#define NGX_HTTP_ASANA_HOOK_JSON_NAME   32


typedef struct {
    u_char                        *pos;
    u_char                        *last;
} ngx_http_asana_hook_json_t;


static ngx_int_t ngx_http_asana_hook_json_value(ngx_http_asana_hook_json_t *j,
    ngx_uint_t depth);
static ngx_int_t ngx_http_asana_hook_json_items(ngx_http_asana_hook_json_t *j,
    ngx_uint_t depth, u_char end);
static ngx_int_t ngx_http_asana_hook_json_string(ngx_http_asana_hook_json_t *j,
    u_char *buf, size_t size, size_t *len);
static ngx_int_t ngx_http_asana_hook_json_escape(ngx_http_asana_hook_json_t *j,
    u_char **dst, u_char *end);
static ngx_int_t ngx_http_asana_hook_json_hex(ngx_http_asana_hook_json_t *j,
    uint32_t *ch);
static ngx_int_t ngx_http_asana_hook_json_number(
    ngx_http_asana_hook_json_t *j);
static ngx_uint_t ngx_http_asana_hook_json_digits(
    ngx_http_asana_hook_json_t *j);
static ngx_int_t ngx_http_asana_hook_json_literal(
    ngx_http_asana_hook_json_t *j, const char *word);
static u_char ngx_http_asana_hook_json_next(ngx_http_asana_hook_json_t *j);


ngx_int_t
ngx_http_asana_hook_json_member(u_char *p, size_t size, ngx_str_t *name,
    ngx_str_t *value)
{
    size_t                      len, max;
    u_char                      buf[NGX_HTTP_ASANA_HOOK_JSON_NAME];
    ngx_uint_t                  found;
    ngx_http_asana_hook_json_t  j;

    j.pos = p;
    j.last = p + size;

    max = value->len;
    value->len = 0;

    found = 0;

    if (ngx_http_asana_hook_json_next(&j) != '{') {
        return NGX_ERROR;
    }

    j.pos++;

    if (ngx_http_asana_hook_json_next(&j) == '}') {
        goto end;
    }

    for ( ;; ) {

        if (ngx_http_asana_hook_json_next(&j) != '"'
            || ngx_http_asana_hook_json_string(&j, buf, sizeof(buf), &len)
               != NGX_OK
            || ngx_http_asana_hook_json_next(&j) != ':')
        {
            return NGX_ERROR;
        }

        j.pos++;

        if (len != name->len || ngx_memcmp(buf, name->data, len) != 0) {

            if (ngx_http_asana_hook_json_value(&j, 1) != NGX_OK) {
                return NGX_ERROR;
            }

        } else if (found++
                   || ngx_http_asana_hook_json_next(&j) != '"'
                   || ngx_http_asana_hook_json_string(&j, value->data, max,
                                                      &value->len)
                      != NGX_OK
                   || value->len > max)
        {
            return NGX_ERROR;
        }

        switch (ngx_http_asana_hook_json_next(&j)) {

        case ',':
            j.pos++;
            continue;

        case '}':
            goto end;

        default:
            return NGX_ERROR;
        }
    }

end:

    j.pos++;

    (void) ngx_http_asana_hook_json_next(&j);

    if (j.pos != j.last) {
        return NGX_ERROR;
    }

    return found ? NGX_OK : NGX_DECLINED;
}


static ngx_int_t
ngx_http_asana_hook_json_value(ngx_http_asana_hook_json_t *j, ngx_uint_t depth)
{
    u_char  ch;

    if (depth > NGX_HTTP_ASANA_HOOK_JSON_DEPTH) {
        return NGX_ERROR;
    }

    ch = ngx_http_asana_hook_json_next(j);

    switch (ch) {

    case '{':
        return ngx_http_asana_hook_json_items(j, depth, '}');

    case '[':
        return ngx_http_asana_hook_json_items(j, depth, ']');

    case '"':
        return ngx_http_asana_hook_json_string(j, NULL, 0, NULL);

    case 't':
        return ngx_http_asana_hook_json_literal(j, "true");

    case 'f':
        return ngx_http_asana_hook_json_literal(j, "false");

    case 'n':
        return ngx_http_asana_hook_json_literal(j, "null");

    default:
        return ngx_http_asana_hook_json_number(j);
    }
}


/* the members of an object or the elements of an array */

static ngx_int_t
ngx_http_asana_hook_json_items(ngx_http_asana_hook_json_t *j, ngx_uint_t depth,
    u_char end)
{
    u_char  ch;

    j->pos++;

    if (ngx_http_asana_hook_json_next(j) == end) {
        j->pos++;
        return NGX_OK;
    }

    for ( ;; ) {

        if (end == '}') {

            if (ngx_http_asana_hook_json_next(j) != '"'
                || ngx_http_asana_hook_json_string(j, NULL, 0, NULL) != NGX_OK
                || ngx_http_asana_hook_json_next(j) != ':')
            {
                return NGX_ERROR;
            }

            j->pos++;
        }

        if (ngx_http_asana_hook_json_value(j, depth + 1) != NGX_OK) {
            return NGX_ERROR;
        }

        ch = ngx_http_asana_hook_json_next(j);

        if (ch != ',' && ch != end) {
            return NGX_ERROR;
        }

        j->pos++;

        if (ch == end) {
            return NGX_OK;
        }
    }
}


/* writes the text to buf as far as it fits, and its length to len */

static ngx_int_t
ngx_http_asana_hook_json_string(ngx_http_asana_hook_json_t *j, u_char *buf,
    size_t size, size_t *len)
{
    u_char  ch, text[4], *p;
    size_t  n, i, add;

    n = 0;

    for (j->pos++; j->pos < j->last; /* void */ ) {

        ch = *j->pos++;

        if (ch == '"') {

            if (len) {
                *len = n;
            }

            return NGX_OK;
        }

        if (ch < ' ') {
            return NGX_ERROR;
        }

        p = text;

        if (ch != '\\') {
            *p++ = ch;

        } else if (ngx_http_asana_hook_json_escape(j, &p, text + 4) != NGX_OK)
        {
            return NGX_ERROR;
        }

        add = p - text;

        for (i = 0; i < add && buf && n + i < size; i++) {
            buf[n + i] = text[i];
        }

        n += add;
    }

    return NGX_ERROR;
}


static ngx_int_t
ngx_http_asana_hook_json_escape(ngx_http_asana_hook_json_t *j, u_char **dst,
    u_char *end)
{
    u_char    ch, *p;
    uint32_t  code, low;

    static u_char  from[] = "\"\\/bfnrt";
    static u_char  to[] = "\"\\/\b\f\n\r\t";

    if (j->pos == j->last) {
        return NGX_ERROR;
    }

    ch = *j->pos++;

    if (ch != 'u') {
        p = ch ? (u_char *) ngx_strchr(from, ch) : NULL;
        if (p == NULL) {
            return NGX_ERROR;
        }

        *(*dst)++ = to[p - from];

        return NGX_OK;
    }

    if (ngx_http_asana_hook_json_hex(j, &code) != NGX_OK) {
        return NGX_ERROR;
    }

    if (code >= 0xd800 && code <= 0xdfff) {

        /* a pair of surrogates */

        if (code > 0xdbff
            || j->last - j->pos < 6 || j->pos[0] != '\\' || j->pos[1] != 'u')
        {
            return NGX_ERROR;
        }

        j->pos += 2;

        if (ngx_http_asana_hook_json_hex(j, &low) != NGX_OK
            || low < 0xdc00 || low > 0xdfff)
        {
            return NGX_ERROR;
        }

        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }

    p = *dst;

    if (code < 0x80) {
        *p++ = (u_char) code;

    } else if (code < 0x800) {
        *p++ = (u_char) (0xc0 | code >> 6);
        *p++ = (u_char) (0x80 | (code & 0x3f));

    } else if (code < 0x10000) {
        *p++ = (u_char) (0xe0 | code >> 12);
        *p++ = (u_char) (0x80 | (code >> 6 & 0x3f));
        *p++ = (u_char) (0x80 | (code & 0x3f));

    } else {
        *p++ = (u_char) (0xf0 | code >> 18);
        *p++ = (u_char) (0x80 | (code >> 12 & 0x3f));
        *p++ = (u_char) (0x80 | (code >> 6 & 0x3f));
        *p++ = (u_char) (0x80 | (code & 0x3f));
    }

    *dst = p;

    return (p <= end) ? NGX_OK : NGX_ERROR;
}


static ngx_int_t
ngx_http_asana_hook_json_hex(ngx_http_asana_hook_json_t *j, uint32_t *ch)
{
    ngx_int_t  n;

    if (j->last - j->pos < 4) {
        return NGX_ERROR;
    }

    n = ngx_hextoi(j->pos, 4);

    if (n == NGX_ERROR) {
        return NGX_ERROR;
    }

    j->pos += 4;
    *ch = (uint32_t) n;

    return NGX_OK;
}


static ngx_int_t
ngx_http_asana_hook_json_number(ngx_http_asana_hook_json_t *j)
{
    if (j->pos < j->last && *j->pos == '-') {
        j->pos++;
    }

    if (j->pos < j->last && *j->pos == '0') {
        j->pos++;

    } else if (!ngx_http_asana_hook_json_digits(j)) {
        return NGX_ERROR;
    }

    if (j->pos < j->last && *j->pos == '.') {
        j->pos++;

        if (!ngx_http_asana_hook_json_digits(j)) {
            return NGX_ERROR;
        }
    }

    if (j->pos < j->last && (*j->pos | 0x20) == 'e') {
        j->pos++;

        if (j->pos < j->last && (*j->pos == '+' || *j->pos == '-')) {
            j->pos++;
        }

        if (!ngx_http_asana_hook_json_digits(j)) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_uint_t
ngx_http_asana_hook_json_digits(ngx_http_asana_hook_json_t *j)
{
    u_char  *start;

    start = j->pos;

    while (j->pos < j->last && *j->pos >= '0' && *j->pos <= '9') {
        j->pos++;
    }

    return j->pos > start;
}


static ngx_int_t
ngx_http_asana_hook_json_literal(ngx_http_asana_hook_json_t *j,
    const char *word)
{
    size_t  len;

    len = ngx_strlen(word);

    if ((size_t) (j->last - j->pos) < len
        || ngx_memcmp(j->pos, word, len) != 0)
    {
        return NGX_ERROR;
    }

    j->pos += len;

    return NGX_OK;
}


/* the next character that is no white space, or 0 at the end */

static u_char
ngx_http_asana_hook_json_next(ngx_http_asana_hook_json_t *j)
{
    while (j->pos < j->last
           && (*j->pos == ' ' || *j->pos == '\t' || *j->pos == CR
               || *j->pos == LF))
    {
        j->pos++;
    }

    return (j->pos < j->last) ? *j->pos : 0;
}
