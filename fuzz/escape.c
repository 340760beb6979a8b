
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * Whatever a key is made of, it is shown as the text of a JSON string: one
 * that stands for the very bytes if they are UTF-8, and in which nothing is
 * that is not seen, or changes how the rest is seen.
 */


#include "ngx_asana_json.h"
#include "fuzz.h"


static const uint32_t  fuzz_hidden[][2] = {
    { 0x0000, 0x001f }, { 0x007f, 0x009f }, { 0x061c, 0x061c },
    { 0x200e, 0x200f }, { 0x2028, 0x202e }, { 0x2066, 0x2069 }
};


static u_char *
fuzz_put(u_char *p, uint32_t ch)
{
    if (ch < 0x80) {
        *p++ = (u_char) ch;
        return p;
    }

    if (ch < 0x800) {
        *p++ = (u_char) (0xc0 | ch >> 6);

    } else {
        *p++ = (u_char) (0xe0 | ch >> 12);
        *p++ = (u_char) (0x80 | (ch >> 6 & 0x3f));
    }

    *p++ = (u_char) (0x80 | (ch & 0x3f));

    return p;
}


/* the text that an escaped one stands for; never more than that */

static ngx_str_t
fuzz_plain(ngx_pool_t *pool, ngx_str_t *text)
{
    char        hex[5];
    u_char     *dst, *p, *last;
    ngx_str_t   plain;

    plain.data = ngx_pnalloc(pool, text->len + 1);
    check(plain.data);

    dst = plain.data;
    last = text->data + text->len;

    for (p = text->data; p < last; p++) {

        if (*p != '\\') {
            *dst++ = *p;
            continue;
        }

        p++;
        check(p < last);

        if (*p != 'u') {
            *dst++ = *p;
            continue;
        }

        check(last - p > 4);
        memcpy(hex, p + 1, 4);
        hex[4] = '\0';
        dst = fuzz_put(dst, (uint32_t) strtoul(hex, NULL, 16));
        p += 4;
    }

    plain.len = dst - plain.data;

    return plain;
}


static void
fuzz_seen(ngx_str_t *text)
{
    u_char      buf[4], *last;
    uint32_t    ch;
    ngx_uint_t  i;

    for (i = 0; i < sizeof(fuzz_hidden) / sizeof(fuzz_hidden[0]); i++) {
        for (ch = fuzz_hidden[i][0]; ch <= fuzz_hidden[i][1]; ch++) {
            last = fuzz_put(buf, ch);
            check(memmem(text->data, text->len, buf, last - buf) == NULL);
        }
    }
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t       len;
    u_char      *p;
    ngx_str_t    key, text, quoted, plain;
    ngx_pool_t  *pool;

    pool = fuzz_pool();

    key.data = fuzz_copy(pool, data, size);
    key.len = size;

    len = ngx_asana_json_escape(NULL, &key);

    p = ngx_pnalloc(pool, len + 2);
    check(p && ngx_asana_json_escape(p + 1, &key) == len);

    p[0] = '"';
    p[len + 1] = '"';

    quoted.data = p;
    quoted.len = len + 2;
    check(fuzz_is_json(&quoted));

    text.data = p + 1;
    text.len = len;
    fuzz_seen(&text);

    plain = fuzz_plain(pool, &text);

    check(fuzz_is_utf8(&plain));

    if (fuzz_is_utf8(&key)) {
        check(plain.len == key.len);
        check(size == 0 || memcmp(plain.data, key.data, key.len) == 0);

    } else {
        check(memmem(plain.data, plain.len, "\357\277\275", 3));
    }

    ngx_destroy_pool(pool);

    return 0;
}
