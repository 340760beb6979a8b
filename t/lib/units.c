
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * Runs the secrets of a key and the policy outside nginx.  Reads a case a
 * line, prints its outcome as a line:
 *
 *     decide NOW INACTIVE PENDING MAX CHANGE [SECRET ...]
 *     encode [SECRET ...]
 *     decode HEX
 *     check TEXT
 *     enroll WORD
 *     reason NUMBER
 *     note NOW CODE SUCCESS SECRET
 *     merge SECRET SECRET
 *     health NOW SECRET ...
 *
 * "nomem" before "decide" lets each allocation fail.  A secret is
 *
 *     id:serial:created:verified:answered:failing:code:pending:gid:secret
 *
 * and a change
 *
 *     type:enroll:creating:all:verified:answered:failing:code:id:gid:secret
 *
 * with the id in hex; what is not visible is printed as %xx.  What is freed
 * must have been overwritten, and blocks are as large as they need to be, so
 * that a sanitizer sees what goes beyond.
 */


#include "ngx_asana_health.h"
#include "ngx_asana_policy.h"
#include "ngx_asana_secrets.h"


#define UNITS_HEAD  16

#define check(what)                                                           \
    if (!(what)) {                                                            \
        fprintf(stderr, "%s:%d: this does not hold: %s\n",                    \
                __FILE__, __LINE__, #what);                                   \
        abort();                                                              \
    }


static void units_free(void *p);

#undef ngx_free
#define ngx_free  units_free

#include "../../src/ngx_asana_secrets.c"
#include "../../src/store/ngx_asana_lmdb_value.c"


/* what is written in clear needs none of these; t/lmdb.t seals */

size_t
ngx_asana_seal_encrypt(ngx_asana_seal_t *seal, ngx_asana_seal_place_t *place,
    u_char *secret, size_t len, u_char *buf)
{
    abort();
}


ngx_int_t
ngx_asana_seal_decrypt(ngx_asana_seal_t *seal, ngx_asana_seal_place_t *place,
    u_char *sealed, size_t size, u_char *secret, size_t *len)
{
    abort();
}


ngx_uint_t
ngx_asana_seal_old(ngx_asana_seal_t *seal, u_char *sealed)
{
    abort();
}


void
ngx_asana_seal_count(ngx_asana_seal_usage_t *usage, u_char *key_id, int64_t n)
{
    abort();
}


static ngx_asana_lmdb_value_t  units_clear;

static ngx_cycle_t       units_cycle;
volatile ngx_cycle_t    *ngx_cycle = &units_cycle;

static ngx_uint_t        units_nomem;
static char             *units_rest;


void *
ngx_alloc(size_t size, ngx_log_t *log)
{
    u_char  *p;

    if (units_nomem) {
        return NULL;
    }

    p = malloc(UNITS_HEAD + size);
    check(p);

    memcpy(p, &size, sizeof(size_t));
    memset(p + UNITS_HEAD, 0xa5, size);

    return p + UNITS_HEAD;
}


/* what was never written to is as it was */

static void
units_free(void *data)
{
    size_t   i, size;
    u_char  *p;

    p = (u_char *) data - UNITS_HEAD;
    memcpy(&size, p, sizeof(size_t));

    for (i = 0; i < size; i++) {
        check(p[UNITS_HEAD + i] == 0 || p[UNITS_HEAD + i] == 0xa5);
    }

    free(p);
}


void
ngx_explicit_memzero(void *buf, size_t n)
{
    memset(buf, 0, n);
}


static char *
units_word(const char *end)
{
    char  *p;

    p = strsep(&units_rest, end);

    return p ? p : (char *) "";
}


static uint64_t
units_number(const char *end)
{
    return strtoull(units_word(end), NULL, 10);
}


static size_t
units_hex(u_char *dst, const char *text)
{
    size_t        n;
    unsigned int  byte;

    for (n = 0; text[2 * n]; n++) {
        check(sscanf(text + 2 * n, "%2x", &byte) == 1);
        dst[n] = (u_char) byte;
    }

    return n;
}


static u_char
units_text(u_char *dst, const char *end)
{
    char  *text;

    text = units_word(end);
    memcpy(dst, text, strlen(text));

    return (u_char) strlen(text);
}


/* the rest of the line, in a buffer that holds no more than that */

static u_char *
units_read(ngx_asana_secrets_t *secrets)
{
    char                 *text;
    u_char               *buf;
    ngx_asana_secret_t    head, *s;
    ngx_asana_secrets_t   all;

    ngx_asana_secrets_init(&all, NULL, 0);

    while (units_rest && *units_rest) {
        memset(&head, 0, sizeof(head));

        units_hex(head.id, units_word(":"));
        head.serial = units_number(":");
        head.created = units_number(":");
        head.verified = units_number(":");
        head.answered = units_number(":");
        head.failing = units_number(":");
        head.code = units_number(":");
        head.pending = units_number(":");

        head.gid_len = units_text(head.gid, ":");

        text = units_word(" ");
        head.len = strlen(text);

        s = ngx_asana_secrets_push(&all, head.len);
        check(s);

        memcpy(s, &head, offsetof(ngx_asana_secret_t, data));
        memcpy(s->data, text, s->len);
    }

    buf = all.size ? malloc(all.size) : NULL;

    if (buf) {
        memcpy(buf, all.start, all.size);
    }

    ngx_asana_secrets_init(secrets, buf, all.size);
    secrets->size = all.size;
    secrets->n = all.n;

    ngx_asana_secrets_wipe(&all);

    return buf;
}


static void
units_print_text(u_char *p, size_t len)
{
    printf(":");

    for ( /* void */ ; len; p++, len--) {
        printf(*p > ' ' && *p <= '~' ? "%c" : "%%%02x", *p);
    }
}


static void
units_print(ngx_asana_secrets_t *secrets)
{
    size_t               size;
    ngx_uint_t           i, n;
    ngx_asana_secret_t  *s;

    size = 0;
    s = ngx_asana_secrets_first(secrets);

    for (n = 0; n < secrets->n; n++) {

        printf(" ");

        for (i = 0; i < NGX_ASANA_ID_LEN; i++) {
            printf("%02x", s->id[i]);
        }

        printf(":%llu:%lld:%lld:%lld:%lld:%u:%u",
               (unsigned long long) s->serial, (long long) s->created,
               (long long) s->verified, (long long) s->answered,
               (long long) s->failing, s->code, s->pending);

        units_print_text(s->gid, s->gid_len);
        units_print_text(s->data, s->len);

        size += ngx_asana_secret_size(s->len);
        s = ngx_asana_secret_next(s);
    }

    check(size == secrets->size && size <= secrets->capacity);

    printf("\n");
}


static void
units_decide(void)
{
    time_t                now;
    u_char               *buf;
    ngx_uint_t            nomem;
    ngx_asana_change_t    change;
    ngx_asana_limits_t    limits;
    ngx_asana_reason_e    reason;
    ngx_asana_outcome_e   outcome;
    ngx_asana_secrets_t   secrets;

    static const char    *outcomes[] = {
        "FAILED", "FULL", "REFUSED", "ABSENT", "HELD", "CHANGED", "ADDED"
    };

    nomem = units_nomem;
    units_nomem = 0;

    memset(&change, 0, sizeof(change));

    now = units_number(" ");
    limits.inactive = units_number(" ");
    limits.pending = units_number(" ");
    limits.max_secrets = units_number(" ");

    change.type = units_number(":");
    change.enroll = units_number(":");
    change.creating = units_number(":");
    change.all = units_number(":");
    change.verified = units_number(":");
    change.answered = units_number(":");
    change.failing = units_number(":");
    change.code = units_number(":");

    units_hex(change.id, units_word(":"));

    change.gid_len = units_text(change.gid, ":");
    change.secret_len = units_text(change.secret, " ");

    buf = units_read(&secrets);

    units_nomem = nomem;
    outcome = ngx_asana_policy_decide(&secrets, &change, now, &limits,
                                      &reason);
    units_nomem = 0;

    printf("%s %d %d", outcomes[outcome], reason,
           (int) ngx_asana_policy_active(&secrets, now, limits.inactive));
    units_print(&secrets);

    ngx_asana_secrets_wipe(&secrets);
    free(buf);
}


static void
units_encode(void)
{
    u_char               *buf, *value;
    size_t                i, size;
    ngx_str_t             none = ngx_null_string;
    ngx_asana_secrets_t   old, secrets;

    buf = units_read(&secrets);
    ngx_asana_secrets_init(&old, NULL, 0);

    value = malloc(ngx_asana_lmdb_value_size(&secrets));
    check(value);

    size = ngx_asana_lmdb_value_encode(&units_clear, &secrets, &old, &none,
                                       value);

    for (i = 0; i < size; i++) {
        printf("%02x", value[i]);
    }

    printf("\n");

    free(value);
    ngx_asana_secrets_wipe(&secrets);
    free(buf);
}


/* into nothing, and behind another secret in a buffer that is too small */

static void
units_decode(void)
{
    char                 *text;
    u_char               *value;
    size_t                len;
    uint64_t              buf[32];
    ngx_int_t             rc;
    ngx_uint_t            n;
    ngx_asana_secret_t   *s;
    ngx_asana_secrets_t   secrets, behind;

    text = units_word(" ");
    len = strlen(text) / 2;

    value = malloc(len + (len == 0));
    check(value && units_hex(value, text) == len);

    memset(buf, 0, sizeof(buf));

    ngx_asana_secrets_init(&secrets, NULL, 0);
    ngx_asana_secrets_init(&behind, (u_char *) buf, sizeof(buf));

    s = ngx_asana_secrets_push(&behind, 16);
    check(s);
    memset(s->id, 0xee, NGX_ASANA_ID_LEN);
    memset(s->data, 'e', 16);

    rc = ngx_asana_lmdb_value_decode(&units_clear, &secrets, value, len);
    check(ngx_asana_lmdb_value_decode(&units_clear, &behind, value, len)
          == rc);

    /* what was moved is left behind by none */

    for (n = 0; n < 32 && behind.start != (u_char *) buf; n++) {
        check(buf[n] == 0);
    }

    s = ngx_asana_secrets_first(&behind);
    check(s->len == 16 && s->id[0] == 0xee && s->data[15] == 'e');
    check(behind.n == secrets.n + 1);
    check(behind.size == secrets.size + ngx_asana_secret_size(16));
    check(secrets.n == 0
          || memcmp(ngx_asana_secret_next(s), secrets.start, secrets.size)
             == 0);

    printf("%s", rc == NGX_OK ? "OK" : rc == NGX_DECLINED ? "DECLINED"
                                                          : "ERROR");
    units_print(&secrets);

    ngx_asana_secrets_wipe(&secrets);
    ngx_asana_secrets_wipe(&behind);
    free(value);
}


/* what an answer makes of a secret, what two hosts that noted it have */

static void
units_note(void)
{
    time_t                now;
    u_char               *buf;
    uint16_t              code;
    ngx_uint_t            success;
    ngx_asana_secrets_t   secrets;

    now = units_number(" ");
    code = units_number(" ");
    success = units_number(" ");

    buf = units_read(&secrets);

    ngx_asana_health_note(ngx_asana_secrets_first(&secrets), code, success,
                          now);
    units_print(&secrets);

    free(buf);
}


static void
units_merge(void)
{
    u_char               *buf;
    ngx_asana_secret_t   *s;
    ngx_asana_secrets_t   secrets;

    buf = units_read(&secrets);

    s = ngx_asana_secrets_first(&secrets);

    printf("%d", (int) ngx_asana_health_merge(s, ngx_asana_secret_next(s)));
    units_print(&secrets);

    free(buf);
}


/* of each of them, and the worst */

static void
units_health(void)
{
    time_t                now;
    u_char               *buf;
    ngx_uint_t            i;
    ngx_asana_secret_t   *s;
    ngx_asana_secrets_t   secrets;

    now = units_number(" ");
    buf = units_read(&secrets);

    s = ngx_asana_secrets_first(&secrets);

    for (i = 0; i < secrets.n; i++) {
        printf("%s ", ngx_asana_health_names[ngx_asana_health(s, now)].data);
        s = ngx_asana_secret_next(s);
    }

    printf("%s\n",
           ngx_asana_health_names[ngx_asana_health_worst(&secrets, now)].data);

    free(buf);
}


static void
units_enroll(void)
{
    ngx_str_t           value;
    ngx_asana_enroll_e  enroll;

    value.data = (u_char *) units_word("\n");
    value.len = strlen((char *) value.data);

    if (ngx_asana_policy_enroll(&value, &enroll) != NGX_OK) {
        printf("DECLINED\n");
        return;
    }

    printf("%d\n", enroll);
}


int
main(void)
{
    char     *command, *line;
    size_t    size;
    ssize_t   n;

    line = NULL;
    size = 0;

    while ((n = getline(&line, &size, stdin)) > 0) {

        line[n - 1] = '\0';
        units_rest = line;
        command = units_word(" ");

        if (strcmp(command, "nomem") == 0) {
            units_nomem = 1;
            command = units_word(" ");
        }

        if (strcmp(command, "decide") == 0) {
            units_decide();

        } else if (strcmp(command, "encode") == 0) {
            units_encode();

        } else if (strcmp(command, "decode") == 0) {
            units_decode();

        } else if (strcmp(command, "enroll") == 0) {
            units_enroll();

        } else if (strcmp(command, "note") == 0) {
            units_note();

        } else if (strcmp(command, "health") == 0) {
            units_health();

        } else if (strcmp(command, "merge") == 0) {
            units_merge();

        } else if (strcmp(command, "check") == 0) {
            command = units_word("\n");
            printf("%d\n", ngx_asana_secrets_check((u_char *) command,
                                                  strlen(command))
                           == NGX_OK);

        } else {
            check(strcmp(command, "reason") == 0);
            printf("%s\n", ngx_asana_policy_reason(units_number(" ")));
        }
    }

    free(line);

    return 0;
}
