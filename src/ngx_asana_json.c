
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_asana_json.h"


#define NGX_ASANA_JSON_DEPTH  64


static ngx_int_t ngx_asana_json_string(u_char **pos, u_char *last,
    ngx_str_t *text);
static u_char ngx_asana_json_next(u_char **pos, u_char *last);
static size_t ngx_asana_json_utf8(u_char *p, u_char *last, uint32_t *code);
static ngx_uint_t ngx_asana_json_hidden(uint32_t code);


/*
 * Knows strings and brackets, and skips whatever else there is.  A name or a
 * value that is written with escapes is another one.  The text comes from
 * Asana, over TLS, and what is found in it has to equal a secret that is held:
 * a text that is no JSON, or a second member in another spelling, gains
 * nothing.
 */

ngx_int_t
ngx_asana_json_member(u_char *p, size_t len, ngx_uint_t depth, ngx_str_t *name,
    ngx_str_t *value)
{
    u_char      ch, *last;
    uint64_t    objects;
    ngx_str_t   text;
    ngx_uint_t  found, level;

    last = p + len;

    if (ngx_asana_json_next(&p, last) != '{') {
        return NGX_ERROR;
    }

    found = 0;
    level = 0;
    objects = 0;    /* a bit for each open bracket */

    do {
        ch = *p;

        if (ch == '"') {

            if (ngx_asana_json_string(&p, last, &text) != NGX_OK) {
                return NGX_ERROR;
            }

            if (level == depth
                && (objects & 1)
                && text.len == name->len
                && ngx_memcmp(text.data, name->data, text.len) == 0
                && ngx_asana_json_next(&p, last) == ':')
            {
                p++;

                if (found++
                    || ngx_asana_json_next(&p, last) != '"'
                    || ngx_asana_json_string(&p, last, value) != NGX_OK
                    || ngx_strlchr(value->data, value->data + value->len,
                                   '\\'))
                {
                    return NGX_ERROR;
                }
            }

            continue;
        }

        p++;

        if (ch == '{' || ch == '[') {

            if (level++ == NGX_ASANA_JSON_DEPTH) {
                return NGX_ERROR;
            }

            objects = objects << 1 | (ch == '{');

        } else if (ch == '}' || ch == ']') {

            if ((objects & 1) != (ch == '}')) {
                return NGX_ERROR;
            }

            level--;
            objects >>= 1;
        }

    } while (level && p < last);

    (void) ngx_asana_json_next(&p, last);

    if (level || p != last) {
        return NGX_ERROR;
    }

    return found ? NGX_OK : NGX_DECLINED;
}


/* from its first quote to behind the last one */

static ngx_int_t
ngx_asana_json_string(u_char **pos, u_char *last, ngx_str_t *text)
{
    u_char  *p;

    text->data = *pos + 1;

    for (p = *pos + 1; p < last; p++) {

        if (*p == '"') {
            text->len = p - text->data;
            *pos = p + 1;
            return NGX_OK;
        }

        if (*p == '\\') {
            p++;
        }
    }

    return NGX_ERROR;
}


/* the next character that is no white space, or 0 at the end */

static u_char
ngx_asana_json_next(u_char **pos, u_char *last)
{
    u_char  *p;

    for (p = *pos; p < last; p++) {
        if (*p != ' ' && *p != '\t' && *p != CR && *p != LF) {
            break;
        }
    }

    *pos = p;

    return (p < last) ? *p : 0;
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
           || (code >= 0x2066 && code <= 0x2069);    /* isolates */
}
