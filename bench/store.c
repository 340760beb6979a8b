
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * LMDB without nginx around it, for bench/store:
 *
 *     store DIR MAPSIZE write BATCH SECONDS START    records a second
 *     store DIR MAPSIZE fill COUNT                   a store of so many secrets
 */


#include <stdio.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <lmdb.h>
#include <openssl/sha.h>


#define SECRET  "bench-00000000000000000000000001"


static MDB_env  *env;
static MDB_dbi   meta, hooks, unproven, proven, pending, by_id;
static uint64_t  serial;


static void
check(int err)
{
    if (err) {
        fprintf(stderr, "%s\n", mdb_strerror(err));
        exit(1);
    }
}


static double
now(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return ts.tv_sec + ts.tv_nsec / 1e9;
}


static unsigned char *
put_int(unsigned char *p, uint64_t n, int size)
{
    int  i;

    for (i = size - 1; i >= 0; i--) {
        p[i] = (unsigned char) n;
        n >>= 8;
    }

    return p + size;
}


/* as src/store/ngx_asana_lmdb_records.c and src/ngx_asana_secrets.c say */

static void
put(MDB_txn *txn, const char *key, const char *secret, int verified)
{
    size_t          len, n;
    MDB_val         k, val;
    unsigned char   value[55 + 255], entry[8 + 480], place[8], digest[32], *p;

    n = strlen(key);
    len = strlen(secret);

    SHA256((const unsigned char *) secret, len, digest);

    p = put_int(value, 2, 1);
    memcpy(p, digest, 8);
    p = put_int(p + 8, ++serial, 8);
    p = put_int(p, time(NULL), 8);
    p = put_int(p, verified ? time(NULL) : 0, 8);
    p = put_int(p, 0, 8 + 8 + 2 + 1 + 1);
    p = put_int(p, len, 2);
    memcpy(p, secret, len);

    k.mv_size = n;
    k.mv_data = (void *) key;
    val.mv_size = p + len - value;
    val.mv_data = value;

    check(mdb_put(txn, hooks, &k, &val, 0));

    put_int(place, serial, 8);
    memcpy(entry, digest, 8);
    memcpy(entry + 8, key, n);

    k.mv_size = 8;
    k.mv_data = place;
    val.mv_size = 8 + n;
    val.mv_data = entry;

    check(mdb_put(txn, verified ? proven : unproven, &k, &val, 0));

    k.mv_size = 0;

    check(mdb_put(txn, by_id, &val, &k, 0));
}


static void
open_env(const char *dir, size_t size)
{
    MDB_txn          *txn;
    MDB_val           key, val;
    unsigned char     version[4] = { 0, 0, 0, 2 };
    struct timespec   ts;

    check(mdb_env_create(&env));
    check(mdb_env_set_mapsize(env, size));
    check(mdb_env_set_maxdbs(env, 8));
    check(mdb_env_set_maxreaders(env, 2048));
    check(mdb_env_open(env, dir, MDB_NOTLS|MDB_NORDAHEAD, 0600));

    check(mdb_txn_begin(env, NULL, 0, &txn));
    check(mdb_dbi_open(txn, "meta", MDB_CREATE, &meta));
    check(mdb_dbi_open(txn, "hooks", MDB_CREATE, &hooks));
    check(mdb_dbi_open(txn, "unproven_by_age", MDB_CREATE, &unproven));
    check(mdb_dbi_open(txn, "proven_by_age", MDB_CREATE, &proven));
    check(mdb_dbi_open(txn, "pending_by_age", MDB_CREATE, &pending));
    check(mdb_dbi_open(txn, "secrets_by_id", MDB_CREATE, &by_id));

    /* greater than in all runs before */

    clock_gettime(CLOCK_REALTIME, &ts);
    serial = (uint64_t) ts.tv_sec << 24 | ts.tv_nsec >> 6;

    key.mv_size = 7;
    key.mv_data = "version";
    val.mv_size = 4;
    val.mv_data = version;

    check(mdb_put(txn, meta, &key, &val, 0));
    check(mdb_txn_commit(txn));
}


static void
run_write(long batch, double seconds, long start)
{
    long      i, n;
    char      key[64], secret[64];
    double    begin, end;
    MDB_txn  *txn;

    n = start;
    begin = now();
    end = begin + seconds;

    while (now() < end) {

        check(mdb_txn_begin(env, NULL, 0, &txn));

        for (i = 0; i < batch; i++, n++) {
            snprintf(key, sizeof(key), "localhost/h/%ld/%ld", start, n);
            snprintf(secret, sizeof(secret), "bench-secret-%020ld-%020ld",
                     start, n);
            put(txn, key, secret, 0);
        }

        check(mdb_txn_commit(txn));
    }

    printf("%.0f\n", (n - start) / (now() - begin));
}


static void
run_fill(long n)
{
    long      i;
    char      key[64];
    MDB_txn  *txn;

    txn = NULL;

    for (i = 0; i < n; i++) {

        if (txn == NULL) {
            check(mdb_txn_begin(env, NULL, 0, &txn));
        }

        snprintf(key, sizeof(key), "localhost/receive-webhook/%07ld", i);
        put(txn, key, SECRET, 1);

        if (i % 10000 == 9999 || i == n - 1) {
            check(mdb_txn_commit(txn));
            txn = NULL;
        }
    }
}


int
main(int argc, char **argv)
{
    if (argc < 5) {
        fprintf(stderr, "see the head of bench/store.c\n");
        return 2;
    }

    open_env(argv[1], strtoul(argv[2], NULL, 10));

    if (argc == 7 && strcmp(argv[3], "write") == 0) {
        run_write(atol(argv[4]), atof(argv[5]), atol(argv[6]));

    } else if (strcmp(argv[3], "fill") == 0) {
        run_fill(atol(argv[4]));
    }

    mdb_env_close(env);

    return 0;
}
