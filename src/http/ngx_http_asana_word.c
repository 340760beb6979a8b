
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_http_asana_word.h"


#define NGX_HTTP_ASANA_WORD_DRY_RUN  "_DRY_RUN"

#define ngx_http_asana_word_text(word)                                     \
    ngx_string(word NGX_HTTP_ASANA_WORD_DRY_RUN)


static ngx_str_t  ngx_http_asana_word_texts[] = {
    ngx_null_string,
    ngx_http_asana_word_text("HANDSHAKE"),
    ngx_http_asana_word_text("REFUSED"),
    ngx_http_asana_word_text("VERIFIED"),
    ngx_http_asana_word_text("HEARTBEAT"),
    ngx_http_asana_word_text("PENDING"),
    ngx_http_asana_word_text("UNSIGNED"),
    ngx_http_asana_word_text("UNKNOWN"),
    ngx_http_asana_word_text("INVALID"),
    ngx_http_asana_word_text("MALFORMED"),
    ngx_http_asana_word_text("ABORTED"),
    ngx_http_asana_word_text("ERROR"),
    ngx_http_asana_word_text("UNCHECKED"),
    ngx_http_asana_word_text("CONFIRMED"),
    ngx_http_asana_word_text("UNMATCHED"),
    ngx_http_asana_word_text("UNREADABLE"),
    ngx_http_asana_word_text("REVOKED")
};


#define ngx_http_asana_word_bit(word)  (1 << NGX_HTTP_ASANA_ ## word)

#define ngx_http_asana_word_bits(first, last)                                 \
    ((ngx_http_asana_word_bit(last) << 1) - ngx_http_asana_word_bit(first))


/* by ngx_asana_count_e: the words that are counted so */

ngx_uint_t  ngx_http_asana_word_counts[NGX_ASANA_COUNTS] = {

    ngx_http_asana_word_bits(HANDSHAKE, REFUSED)
    |ngx_http_asana_word_bits(MALFORMED, ERROR),

    ngx_http_asana_word_bits(VERIFIED, ERROR),

    ngx_http_asana_word_bits(PENDING, ERROR)
    &~ngx_http_asana_word_bit(ABORTED),

    ngx_http_asana_word_bits(CONFIRMED, REVOKED)
    |ngx_http_asana_word_bit(REFUSED)
    |ngx_http_asana_word_bit(ERROR)
};


ngx_uint_t  ngx_http_asana_word_failures =
    ngx_http_asana_word_bit(REFUSED)
    |ngx_http_asana_word_bits(PENDING, ERROR)
    |ngx_http_asana_word_bits(UNMATCHED, UNREADABLE);


void
ngx_http_asana_word(ngx_str_t *text, ngx_http_asana_word_e word,
    ngx_uint_t dry_run)
{
    *text = ngx_http_asana_word_texts[word];

    if (text->len && !dry_run) {
        text->len -= sizeof(NGX_HTTP_ASANA_WORD_DRY_RUN) - 1;
    }
}


const char *
ngx_http_asana_word_name(ngx_str_t *text, ngx_str_t *name, u_char *buf)
{
    u_char  ch;
    size_t  i;

    *name = *text;

    for (i = 0; i < text->len; i++) {

        ch = text->data[i];

        if ((ch >= '0' && ch <= '9')
            || ((ch | 0x20) >= 'a' && (ch | 0x20) <= 'z')
            || (ch && ngx_strchr("/._-~:", ch)))
        {
            continue;
        }

        name->data = buf;
        name->len = (u_char *) ngx_escape_uri(buf, text->data, text->len,
                                              NGX_ESCAPE_URI_COMPONENT)
                    - buf;

        return "ref:";
    }

    return "";
}
