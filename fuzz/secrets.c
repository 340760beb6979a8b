
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * Whatever lies in the store as the value of a key is either refused or means
 * what it says: written again it is the same bytes, all that is in it has its
 * bounds, and changes can be made to it.
 */


#include "ngx_asana_lmdb_value.h"
#include "ngx_asana_policy.h"
#include "ngx_asana_secrets.h"
#include "fuzz.h"


#define FUZZ_MAX_TIME  253402300799LL


static void
fuzz_bounds(ngx_asana_secrets_t *secrets)
{
    ngx_uint_t           i;
    ngx_asana_secret_t  *s;

    s = ngx_asana_secrets_first(secrets);

    for (i = 0; i < secrets->n; i++) {
        check(s->created >= 0 && s->created <= FUZZ_MAX_TIME);
        check(s->verified >= 0 && s->verified <= FUZZ_MAX_TIME);
        check(s->answered >= 0 && s->answered <= FUZZ_MAX_TIME);
        check(s->failing >= 0 && s->failing <= FUZZ_MAX_TIME);
        check(s->pending <= 1 && s->len >= 16 && s->gid_len <= 32);
        check(s->stored == s->verified && s->deliveries == 0);
        check(ngx_asana_secrets_by_id(secrets, s->id) == s);

        s = ngx_asana_secret_next(s);
    }

    check(secrets->n == 0 || (u_char *) s == secrets->start + secrets->size);
}


/* the first byte of the value's end chooses what */

static void
fuzz_decide(ngx_asana_secrets_t *secrets, u_char choice)
{
    ngx_uint_t           n;
    ngx_asana_change_t   change;
    ngx_asana_limits_t   limits;
    ngx_asana_reason_e   reason;
    ngx_asana_outcome_e  outcome;

    ngx_memzero(&change, sizeof(change));

    limits.inactive = 86400;
    limits.pending = 300;
    limits.max_secrets = 1 + (choice >> 6);

    change.type = choice % 5;
    change.enroll = (choice >> 3) % 5;
    change.creating = 1;
    change.secret_len = 20;
    ngx_memset(change.secret, 'x', 20);

    if (secrets->n) {
        ngx_memcpy(change.id, ngx_asana_secrets_first(secrets)->id,
                   NGX_ASANA_ID_LEN);
    }

    n = secrets->n;
    outcome = ngx_asana_policy_decide(secrets, &change, 1700000000, &limits,
                                      &reason);

    check(outcome >= NGX_ASANA_REFUSED);
    check((outcome == NGX_ASANA_REFUSED) == (reason != 0));
    check(secrets->n <= n + (outcome == NGX_ASANA_ADDED));
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    u_char               *again, *value;
    ngx_int_t             rc;
    ngx_str_t             none = ngx_null_string;
    ngx_pool_t           *pool;
    ngx_asana_secrets_t   old, secrets;
    ngx_asana_lmdb_value_t  clear;

    memset(&clear, 0, sizeof(clear));

    pool = fuzz_pool();
    value = fuzz_copy(pool, data, size);

    ngx_asana_secrets_init(&old, NULL, 0);
    ngx_asana_secrets_init(&secrets, NULL, 0);

    rc = ngx_asana_lmdb_value_decode(&clear, &secrets, value, size);

    if (rc == NGX_OK) {
        fuzz_bounds(&secrets);

        again = ngx_palloc(pool, ngx_asana_lmdb_value_size(&secrets));
        check(ngx_asana_lmdb_value_encode(&clear, &secrets, &old, &none, again)
              == size);
        check(memcmp(again, data, size) == 0);

        fuzz_decide(&secrets, data[size - 1]);

    } else {
        check(rc == NGX_DECLINED && secrets.n == 0 && secrets.size == 0);
    }

    ngx_asana_secrets_wipe(&secrets);
    ngx_destroy_pool(pool);

    return 0;
}
