
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * What the targets share: nginx as far as they need it, bodies in pieces, and
 * opinions on UTF-8 and JSON that know nothing of the module.
 */


#define _GNU_SOURCE

#include "fuzz.h"

#include <sys/mman.h>


#define FUZZ_DEPTH  64


typedef struct {
    u_char      *p;
    u_char      *last;
    ngx_uint_t   depth;
} fuzz_json_t;


static ngx_uint_t fuzz_json_value(fuzz_json_t *j);


static ngx_log_t        fuzz_log;
static ngx_cycle_t      fuzz_cycle;
static ngx_open_file_t  fuzz_log_file;


int LLVMFuzzerInitialize(int *argc, char ***argv);


int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
    ngx_pagesize = 4096;
    ngx_cacheline_size = 64;

    for (ngx_pagesize_shift = 0; ngx_pagesize >> (ngx_pagesize_shift + 1);
         ngx_pagesize_shift++)
    {
        /* void */
    }

    fuzz_log_file.fd = ngx_stderr;
    fuzz_log.file = &fuzz_log_file;
    fuzz_log.log_level = NGX_LOG_STDERR;

    fuzz_cycle.log = &fuzz_log;
    ngx_cycle = &fuzz_cycle;

    ngx_time_init();

    return 0;
}


void
fuzz_failed(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: this does not hold: %s\n", file, line, what);
    abort();
}


ngx_pool_t *
fuzz_pool(void)
{
    ngx_pool_t  *pool;

    pool = ngx_create_pool(4096, &fuzz_log);
    check(pool);

    return pool;
}


u_char *
fuzz_copy(ngx_pool_t *pool, const u_char *data, size_t size)
{
    u_char              *p;
    ngx_pool_cleanup_t  *cln;

    p = malloc(size ? size : 1);
    cln = ngx_pool_cleanup_add(pool, 0);
    check(p && cln);

    cln->handler = free;
    cln->data = p;

    /* not even the first byte of nothing */

    if (size == 0) {
        return p + 1;
    }

    memcpy(p, data, size);

    return p;
}


static ngx_file_t *
fuzz_file(ngx_pool_t *pool, ngx_str_t *body)
{
    ngx_file_t               *file;
    ngx_pool_cleanup_t       *cln;
    ngx_pool_cleanup_file_t  *clnf;

    file = ngx_pcalloc(pool, sizeof(ngx_file_t));
    cln = ngx_pool_cleanup_add(pool, sizeof(ngx_pool_cleanup_file_t));
    check(file && cln);

    file->fd = memfd_create("body", 0);
    file->log = pool->log;
    ngx_str_set(&file->name, "body");

    check(file->fd != -1);
    check(write(file->fd, body->data, body->len) == (ssize_t) body->len);

    cln->handler = ngx_pool_cleanup_file;
    clnf = cln->data;
    clnf->fd = file->fd;
    clnf->name = file->name.data;
    clnf->log = pool->log;

    return file;
}


ngx_chain_t *
fuzz_chain(ngx_pool_t *pool, const u_char *data, size_t size, ngx_str_t *body)
{
    size_t         n, pos, cuts, in_memory;
    ngx_buf_t     *b;
    const u_char  *cut;
    ngx_file_t    *file;
    ngx_chain_t   *head, *cl, **ll;

    cuts = 0;
    in_memory = 8;
    file = NULL;

    if (size) {
        cuts = ngx_min((size_t) (*data & 7), size - 1);

        if (*data & 8) {
            in_memory = *data >> 4 & 7;
        }

        data++;
        size--;
    }

    cut = data;
    data += cuts;
    size -= cuts;

    body->data = fuzz_copy(pool, data, size);
    body->len = size;

    ll = &head;

    for (n = 0, pos = 0; n <= cuts; n++, pos += size) {

        size = (n < cuts) ? ngx_min(cut[n], body->len - pos)
                          : body->len - pos;

        cl = ngx_alloc_chain_link(pool);
        b = ngx_calloc_buf(pool);
        check(cl && b);

        if (n < in_memory) {
            b->start = fuzz_copy(pool, body->data + pos, size);
            b->pos = b->start;
            b->last = b->pos + size;
            b->end = b->last;
            b->temporary = 1;

        } else {
            file = file ? file : fuzz_file(pool, body);
            b->file = file;
            b->file_pos = pos;
            b->file_last = pos + size;
            b->in_file = 1;
        }

        cl->buf = b;
        *ll = cl;
        ll = &cl->next;
    }

    *ll = NULL;

    return head;
}


ngx_str_t
fuzz_text(ngx_pool_t *pool, ngx_chain_t *head)
{
    u_char       *p;
    size_t        size;
    ngx_str_t     text;
    ngx_chain_t  *cl;

    size = 0;

    for (cl = head; cl; cl = cl->next) {
        size += ngx_buf_size(cl->buf);
    }

    text.len = size;
    text.data = ngx_pnalloc(pool, size + 1);
    check(text.data);

    p = text.data;

    for (cl = head; cl; cl = cl->next) {
        p = ngx_cpymem(p, cl->buf->pos, ngx_buf_size(cl->buf));
    }

    return text;
}


ngx_uint_t
fuzz_is_utf8(ngx_str_t *text)
{
    u_char    *p, *last;
    uint32_t   ch, least;
    ngx_uint_t n;

    for (p = text->data, last = p + text->len; p < last; /* void */) {

        ch = *p++;

        if (ch < 0x80) {
            continue;
        }

        if ((ch & 0xe0) == 0xc0) {
            n = 1;
            ch &= 0x1f;
            least = 0x80;

        } else if ((ch & 0xf0) == 0xe0) {
            n = 2;
            ch &= 0x0f;
            least = 0x800;

        } else if ((ch & 0xf8) == 0xf0) {
            n = 3;
            ch &= 0x07;
            least = 0x10000;

        } else {
            return 0;
        }

        for ( /* void */ ; n; n--) {

            if (p == last || (*p & 0xc0) != 0x80) {
                return 0;
            }

            ch = ch << 6 | (*p++ & 0x3f);
        }

        if (ch < least || ch > 0x10ffff || (ch >= 0xd800 && ch <= 0xdfff)) {
            return 0;
        }
    }

    return 1;
}


static void
fuzz_json_space(fuzz_json_t *j)
{
    while (j->p < j->last && *j->p && strchr(" \t\r\n", *j->p)) {
        j->p++;
    }
}


/* takes the character, between white space, if it comes next */

static ngx_uint_t
fuzz_json_take(fuzz_json_t *j, u_char ch)
{
    fuzz_json_space(j);

    if (j->p == j->last || *j->p != ch) {
        return 0;
    }

    j->p++;
    fuzz_json_space(j);

    return 1;
}


static ngx_uint_t
fuzz_json_string(fuzz_json_t *j)
{
    ngx_uint_t  n;

    if (j->p == j->last || *j->p++ != '"') {
        return 0;
    }

    while (j->p < j->last) {

        if (*j->p == '"') {
            j->p++;
            return 1;
        }

        if (*j->p < 0x20) {
            return 0;
        }

        if (*j->p++ != '\\') {
            continue;
        }

        if (j->p == j->last || *j->p == '\0'
            || strchr("\"\\/bfnrtu", *j->p) == NULL)
        {
            return 0;
        }

        if (*j->p++ != 'u') {
            continue;
        }

        for (n = 0; n < 4; n++) {
            if (j->p == j->last || !isxdigit(*j->p++)) {
                return 0;
            }
        }
    }

    return 0;
}


static size_t
fuzz_json_digits(fuzz_json_t *j)
{
    u_char  *start;

    for (start = j->p; j->p < j->last && isdigit(*j->p); j->p++) { /* void */ }

    return j->p - start;
}


static ngx_uint_t
fuzz_json_number(fuzz_json_t *j)
{
    if (*j->p == '-') {
        j->p++;
    }

    if (j->p < j->last && *j->p == '0') {
        j->p++;

    } else if (fuzz_json_digits(j) == 0) {
        return 0;
    }

    if (j->p < j->last && *j->p == '.') {
        j->p++;

        if (fuzz_json_digits(j) == 0) {
            return 0;
        }
    }

    if (j->p < j->last && (*j->p | 0x20) == 'e') {
        j->p++;

        if (j->p < j->last && (*j->p == '+' || *j->p == '-')) {
            j->p++;
        }

        return fuzz_json_digits(j) != 0;
    }

    return 1;
}


static ngx_uint_t
fuzz_json_word(fuzz_json_t *j, const char *word)
{
    size_t  len;

    len = strlen(word);

    if ((size_t) (j->last - j->p) < len || memcmp(j->p, word, len) != 0) {
        return 0;
    }

    j->p += len;

    return 1;
}


static ngx_uint_t
fuzz_json_members(fuzz_json_t *j, u_char end)
{
    j->p++;

    if (++j->depth > FUZZ_DEPTH) {
        return 0;
    }

    if (!fuzz_json_take(j, end)) {

        do {
            if (end == '}'
                && !(fuzz_json_string(j) && fuzz_json_take(j, ':')))
            {
                return 0;
            }

            if (!fuzz_json_value(j)) {
                return 0;
            }

        } while (fuzz_json_take(j, ','));

        if (!fuzz_json_take(j, end)) {
            return 0;
        }
    }

    j->depth--;

    return 1;
}


static ngx_uint_t
fuzz_json_value(fuzz_json_t *j)
{
    fuzz_json_space(j);

    if (j->p == j->last) {
        return 0;
    }

    switch (*j->p) {

    case '{':
        return fuzz_json_members(j, '}');

    case '[':
        return fuzz_json_members(j, ']');

    case '"':
        return fuzz_json_string(j);

    case 't':
        return fuzz_json_word(j, "true");

    case 'f':
        return fuzz_json_word(j, "false");

    case 'n':
        return fuzz_json_word(j, "null");

    default:
        return fuzz_json_number(j);
    }
}


ngx_uint_t
fuzz_is_json(ngx_str_t *text)
{
    fuzz_json_t  j;

    j.p = text->data;
    j.last = text->data + text->len;
    j.depth = 0;

    if (!fuzz_is_utf8(text) || !fuzz_json_value(&j)) {
        return 0;
    }

    fuzz_json_space(&j);

    return j.p == j.last;
}
