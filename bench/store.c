
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
static MDB_dbi   meta, secrets, unproven, waiting, pending;


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


static void
put64(unsigned char *p, uint64_t n)
{
    int  i;

    for (i = 7; i >= 0; i--) {
        p[i] = (unsigned char) n;
        n >>= 8;
    }
}


static void
put(MDB_txn *txn, const char *key, const char *secret, int proven)
{
    size_t          len, n;
    MDB_val         k, val;
    unsigned char   record[26 + 255], index[16 + 480], digest[32];

    n = strlen(key);
    len = strlen(secret);

    SHA256((const unsigned char *) secret, len, digest);

    memcpy(record, digest, 8);
    put64(record + 8, time(NULL));
    put64(record + 16, proven ? time(NULL) : 0);
    record[24] = 0;
    record[25] = (unsigned char) len;
    memcpy(record + 26, secret, len);

    k.mv_size = n;
    k.mv_data = (void *) key;
    val.mv_size = 26 + len;
    val.mv_data = record;

    check(mdb_put(txn, secrets, &k, &val, 0));

    if (proven) {
        return;
    }

    memcpy(index, record + 8, 8);
    memcpy(index + 8, record, 8);
    memcpy(index + 16, key, n);

    k.mv_size = 16 + n;
    k.mv_data = index;
    val.mv_size = 0;

    check(mdb_put(txn, unproven, &k, &val, 0));
}


static void
count(MDB_txn *txn, uint64_t n)
{
    MDB_val        key, val;
    unsigned char  buf[8];

    put64(buf, n);

    key.mv_size = 4;
    key.mv_data = "keys";
    val.mv_size = 8;
    val.mv_data = buf;

    check(mdb_put(txn, meta, &key, &val, 0));
}


static void
open_env(const char *dir, size_t size)
{
    MDB_txn        *txn;
    MDB_val         key, val;
    unsigned char   version[4] = { 0, 0, 0, 1 };

    check(mdb_env_create(&env));
    check(mdb_env_set_mapsize(env, size));
    check(mdb_env_set_maxdbs(env, 8));
    check(mdb_env_set_maxreaders(env, 2048));
    check(mdb_env_open(env, dir, MDB_NOTLS|MDB_NORDAHEAD, 0600));

    check(mdb_txn_begin(env, NULL, 0, &txn));
    check(mdb_dbi_open(txn, "meta", MDB_CREATE, &meta));
    check(mdb_dbi_open(txn, "secrets", MDB_CREATE|MDB_DUPSORT, &secrets));
    check(mdb_dbi_open(txn, "unproven", MDB_CREATE, &unproven));
    check(mdb_dbi_open(txn, "waiting", MDB_CREATE, &waiting));
    check(mdb_dbi_open(txn, "pending", MDB_CREATE, &pending));

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

        count(txn, n);
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
            count(txn, i + 1);
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
