
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * A body in pieces is a heartbeat exactly if the whole of it matches a
 * regular expression.
 */


#include "ngx_asana_hmac.h"
#include "fuzz.h"


#define S  "[ \\t\\r\\n]*"


static ngx_uint_t
fuzz_matches(ngx_str_t *body)
{
    int                      n, err;
    size_t                   offset;
    pcre2_match_data        *match;

    static pcre2_code       *re;

    static const PCRE2_UCHAR8  pattern[] =
        "\\A" S "\\{" S "\"events\"" S ":" S "\\[" S "\\]" S "\\}" S "\\z";

    if (re == NULL) {
        re = pcre2_compile(pattern, PCRE2_ZERO_TERMINATED, 0, &err, &offset,
                           NULL);
        check(re);
    }

    match = pcre2_match_data_create_from_pattern(re, NULL);
    check(match);

    n = pcre2_match(re, body->data, body->len, 0, 0, match, NULL);

    pcre2_match_data_free(match);

    return n > 0;
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ngx_int_t     rc;
    ngx_str_t     body;
    ngx_pool_t   *pool;
    ngx_chain_t  *cl;

    pool = fuzz_pool();
    cl = fuzz_chain(pool, data, size, &body);

    rc = ngx_asana_hmac_heartbeat(cl, pool);

    check(rc == (fuzz_matches(&body) ? NGX_OK : NGX_DECLINED));
    check(rc == NGX_DECLINED || fuzz_is_json(&body));

    ngx_destroy_pool(pool);

    return 0;
}
