
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * The answer to a create call: any text is searched for the member.  What is
 * found has its name before it.  In what is JSON without the name, a member
 * that is put in is found, at its depth and at no other.
 */


#include "ngx_asana_json.h"
#include "fuzz.h"


#define FUZZ_MEMBER  "\"X-Hook-Secret\":\"0123456789abcdef\""


static ngx_str_t  fuzz_name = ngx_string("X-Hook-Secret");


static ngx_uint_t
fuzz_has_name(ngx_str_t *text)
{
    return memmem(text->data, text->len, fuzz_name.data, fuzz_name.len)
           != NULL;
}


static u_char *
fuzz_back(u_char *p, u_char *start, u_char ch)
{
    while (p > start && strchr(" \t\r\n", p[-1]) && p[-1]) {
        p--;
    }

    check(p > start && p[-1] == ch);

    return p - 1;
}


static void
fuzz_found(ngx_str_t *text, ngx_str_t *value)
{
    u_char  *p;

    check(value->data > text->data);
    check(value->data + value->len < text->data + text->len);
    check(value->data[value->len] == '"');
    check(memchr(value->data, '"', value->len) == NULL);
    check(memchr(value->data, '\\', value->len) == NULL);

    p = fuzz_back(value->data, text->data, '"');
    p = fuzz_back(p, text->data, ':');
    p = fuzz_back(p, text->data, '"');

    check((size_t) (p - text->data) > fuzz_name.len);
    check(memcmp(p - fuzz_name.len, fuzz_name.data, fuzz_name.len) == 0);
}


/* parts of the text with others between them */

static void
fuzz_expect(ngx_pool_t *pool, ngx_int_t first, ngx_int_t second,
    const char *before, ngx_str_t *text, size_t cut, const char *middle,
    const char *behind)
{
    ngx_str_t  all, value;

    all.len = strlen(before) + text->len + strlen(middle) + strlen(behind);
    all.data = ngx_pnalloc(pool, all.len + 1);
    check(all.data);

    ngx_snprintf(all.data, all.len, "%s%*s%s%*s%s", before, cut, text->data,
                 middle, text->len - cut, text->data + cut, behind);

    check(ngx_asana_json_member(all.data, all.len, 1, &fuzz_name, &value)
          == first);
    check(first != NGX_OK || value.len == 16);

    check(ngx_asana_json_member(all.data, all.len, 2, &fuzz_name, &value)
          == second);
    check(second != NGX_OK || value.len == 16);
}


static void
fuzz_object(ngx_pool_t *pool, ngx_str_t *text)
{
    u_char       *p, *last;
    size_t        head, tail;
    const char   *comma;

    p = memchr(text->data, '{', text->len);
    head = p + 1 - text->data;

    for (last = text->data + text->len; last[-1] != '}'; last--) { /* void */ }

    tail = last - 1 - text->data;

    for (p++; strchr(" \t\r\n", *p); p++) { /* void */ }

    comma = (*p == '}') ? FUZZ_MEMBER : FUZZ_MEMBER ",";
    fuzz_expect(pool, NGX_OK, NGX_DECLINED, "", text, head, comma, "");
    fuzz_expect(pool, NGX_DECLINED, NGX_OK, "{\"data\":", text, head, comma,
                "}");
    fuzz_expect(pool, NGX_DECLINED, NGX_DECLINED, "{\"a\":[", text, head,
                comma, "]}");
    fuzz_expect(pool, NGX_OK, NGX_DECLINED, "{\"a\":", text, text->len,
                "," FUZZ_MEMBER, "}");

    if (*p != '}') {
        fuzz_expect(pool, NGX_OK, NGX_DECLINED, "", text, tail,
                    "," FUZZ_MEMBER, "");
        fuzz_expect(pool, NGX_ERROR, NGX_DECLINED, "", text, tail,
                    "," FUZZ_MEMBER "," FUZZ_MEMBER, "");
    }
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    u_char      *p, *last;
    ngx_int_t    rc;
    ngx_str_t    text, value;
    ngx_pool_t  *pool;
    ngx_uint_t   depth;

    pool = fuzz_pool();

    text.data = fuzz_copy(pool, data, size);
    text.len = size;

    p = text.data;
    last = p + size;

    while (p < last && *p && strchr(" \t\r\n", *p)) {
        p++;
    }

    for (depth = 1; depth <= 2; depth++) {
        rc = ngx_asana_json_member(text.data, text.len, depth, &fuzz_name,
                                   &value);

        check(rc != NGX_OK || fuzz_has_name(&text));
        check(rc == NGX_ERROR || *p == '{');

        if (rc == NGX_OK) {
            fuzz_found(&text, &value);
        }
    }

    if (p < last && *p == '{' && fuzz_is_json(&text) && !fuzz_has_name(&text))
    {
        check(rc == NGX_DECLINED);

        for (depth = 0; p < last; p++) {
            depth += (*p == '{' || *p == '[');
        }

        if (depth < 60) {
            fuzz_object(pool, &text);
        }
    }

    ngx_destroy_pool(pool);

    return 0;
}
