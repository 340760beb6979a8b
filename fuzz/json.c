
/*
 * Copyright (C) asana-hook contributors
 */


/* The answer to a create call: any text is searched for the member. */


#include "ngx_asana_json.h"
#include "fuzz.h"


static ngx_str_t  fuzz_name = ngx_string("X-Hook-Secret");

static ngx_str_t  fuzz_path[] = { ngx_string("data"), ngx_string("gid") };


/* whether the bytes of the name, or an escape, are anywhere in the text */

static ngx_uint_t
fuzz_may_have(ngx_str_t *text)
{
    size_t  i;

    for (i = 0; i < text->len; i++) {
        if (text->data[i] == '\\'
            || (text->len - i >= fuzz_name.len
                && memcmp(text->data + i, fuzz_name.data, fuzz_name.len) == 0))
        {
            return 1;
        }
    }

    return 0;
}


static size_t
fuzz_depth(ngx_str_t *text)
{
    size_t  i, depth;

    depth = 0;

    for (i = 0; i < text->len; i++) {
        depth += (text->data[i] == '{' || text->data[i] == '[');
    }

    return depth;
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    u_char      *buf, *p, *last;
    ngx_int_t    inner, rc;
    ngx_str_t    text, value;
    ngx_pool_t  *pool;

    pool = fuzz_pool();

    text.data = fuzz_copy(pool, data, size);
    text.len = size;

    buf = ngx_palloc(pool, 255);
    check(buf != NULL);

    value.data = buf;
    value.len = 255;

    rc = ngx_asana_json_member(text.data, text.len, &fuzz_name, &value);

    check(rc != NGX_OK || value.len <= 255);
    check(rc != NGX_OK || fuzz_may_have(&text));

    value.len = 255;
    inner = ngx_asana_json_inner(text.data, text.len, fuzz_path, &value);

    check(inner != NGX_OK || value.len <= 255);

    if (fuzz_is_utf8(&text)) {

        p = text.data;
        last = p + size;

        while (p < last && memchr(" \t\r\n", *p, 4)) {
            p++;
        }

        if (fuzz_is_json(&text)) {

            if (p == last || *p != '{') {
                check(rc == NGX_ERROR);

            } else if (fuzz_depth(&text) < 60 && !fuzz_may_have(&text)) {
                check(rc == NGX_DECLINED);
            }

        } else {
            check(rc == NGX_ERROR && inner == NGX_ERROR);
        }
    }

    ngx_destroy_pool(pool);

    return 0;
}
