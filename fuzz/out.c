
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * Whatever a key is made of, the API shows it as JSON, and as a reference
 * that stands for the very bytes.
 */


#include "fuzz.h"


/* the text that an escaped one stands for */

static ngx_str_t
fuzz_decode(ngx_pool_t *pool, ngx_str_t *text, u_char mark, size_t skip,
    size_t digits)
{
    char        hex[5];
    long        ch;
    u_char     *p, *last;
    ngx_str_t   plain;

    plain.data = ngx_pnalloc(pool, text->len + 1);
    plain.len = 0;
    check(plain.data);

    last = text->data + text->len;

    for (p = text->data; p < last; p++) {

        if (*p != mark) {
            plain.data[plain.len++] = *p;
            continue;
        }

        if (mark == '\\' && p[1] != 'u') {
            plain.data[plain.len++] = *++p;
            continue;
        }

        check((size_t) (last - p) > skip + digits);

        memcpy(hex, p + 1 + skip, digits);
        hex[digits] = '\0';
        ch = strtol(hex, NULL, 16);

        if (mark == '%' || ch < 0x80) {
            plain.data[plain.len++] = (u_char) ch;

        } else if (ch < 0x800) {
            plain.data[plain.len++] = (u_char) (0xc0 | ch >> 6);
            plain.data[plain.len++] = (u_char) (0x80 | (ch & 0x3f));

        } else {
            plain.data[plain.len++] = (u_char) (0xe0 | ch >> 12);
            plain.data[plain.len++] = (u_char) (0x80 | (ch >> 6 & 0x3f));
            plain.data[plain.len++] = (u_char) (0x80 | (ch & 0x3f));
        }

        p += skip + digits;
    }

    return plain;
}


static ngx_str_t
fuzz_out(ngx_pool_t *pool, ngx_str_t *key,
    void (*pt)(ngx_http_asana_hook_out_t *out, ngx_str_t *text))
{
    ngx_str_t                  text;
    ngx_http_asana_hook_out_t  out;

    ngx_memzero(&out, sizeof(out));
    out.pool = pool;

    ngx_http_asana_hook_out(&out, "\"");
    pt(&out, key);
    ngx_http_asana_hook_out(&out, "\"");

    text = fuzz_text(pool, out.head);

    check(!out.failed && out.size == text.len);
    check(fuzz_is_json(&text));

    text.data++;
    text.len -= 2;

    return text;
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t       i;
    ngx_str_t    key, text, plain;
    ngx_pool_t  *pool;

    pool = fuzz_pool();

    key.data = fuzz_copy(pool, data, size);
    key.len = size;

    text = fuzz_out(pool, &key, ngx_http_asana_hook_out_json);

    if (fuzz_is_utf8(&key)) {
        plain = fuzz_decode(pool, &text, '\\', 1, 4);
        check(plain.len == key.len);
        check(memcmp(plain.data, key.data, key.len) == 0);
    }

    text = fuzz_out(pool, &key, ngx_http_asana_hook_out_escaped);
    plain = fuzz_decode(pool, &text, '%', 0, 2);

    check(plain.len == key.len);
    check(key.len == 0 || memcmp(plain.data, key.data, key.len) == 0);

    for (i = 0; i < text.len; i++) {
        check(isalnum(text.data[i]) || strchr("-._~%", text.data[i]));
    }

    ngx_destroy_pool(pool);

    return 0;
}
