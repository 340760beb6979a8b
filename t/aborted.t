# Tests for deliveries whose body does not arrive whole: that is the client's
# doing, no error of the receiver, and nothing of it passes.

use strict;
use warnings;

use lib 't/lib';

use Test::More;

use Receiver qw(request response sign wait_for);
use HTTP2;

my $secret = 'a-secret-of-printable-text-0123456789';
my $http2  = (Receiver->new->nginx('-V'))[1] =~ /http_v2_module/;

sub counted {
    my ($t, $word) = @_;
    my $r = $t->call('GET', '/api/metrics');
    my ($n) = $r->{body}
        =~ /^asana_hook_deliveries_total\{.*result="$word"\} (\d+)$/m;
    return $n;
}

for my $dry ('', 'asana_hook_dry_run on;') {
    my $t = Receiver->new(
        expect   => qr/tmp-body/,
        location => "$dry client_max_body_size 1000;
            client_body_timeout 300ms; client_body_buffer_size 200;",
        server => "location /api { asana_hook_api hooks; }
            location /page {
                asana_hook hooks; $dry client_max_body_size 1000;
                error_page 400 408 413 \@page;
                proxy_pass http://127.0.0.1:APP;
            }
            location \@page {
                asana_hook hooks; proxy_pass http://127.0.0.1:APP;
            }"
    );
    $t->{server} =~ s/APP/$t->{app_port}/g;
    $t->app->run;
    for my $uri ('/a', '/page') {
        is $t->handshake($uri, $secret)->{status}, 200, "handshake $dry";
    }
    $t->words(2);
    my $n = 0;

    my $head = sub {
        my ($uri, $body, @more) = @_;
        return join "\r\n", "POST $uri HTTP/1.1", 'Host: localhost',
            'X-Hook-Signature: ' . sign($secret, $body), @more, '', '';
    };
    my $chunked = 'Transfer-Encoding: chunked';

    for my $case (
        ['too slow', 0, $head->('/a', 'x' x 10, 'Content-Length: 10') . 'xxx'],
        ['badly framed', 400, $head->('/a', 'x', $chunked) . "zz\r\n"],
        ['badly framed, later', 400,
            $head->('/a', 'x', $chunked) . "1\r\nx\r\n", "zz\r\n"],
        ['too large', 413,
            $head->('/a', 'x' x 2000, $chunked) . "7d0\r\n" . 'x' x 2000],
        ['too large, later', 413,
            $head->('/a', 'x' x 1200, $chunked) . "258\r\n" . 'x' x 600,
            "\r\n258\r\n" . 'x' x 600]
        )
    {
        my ($name, $status, @pieces) = @$case;
        my $s = $t->connection;
        request($s, @pieces);
        is response($s, 5)->{status}, $status, $name;
        close $s;
        is(($t->words)[-1], 'ABORTED', 'ABORTED');
        like $t->{lines}[-1], qr/ 408 /, 'logged with 408' if !$status;
        is counted($t, 'aborted'), ++$n, 'counted';
        $t->words;
    }

    for my $pause (0, 1) {
        my $s = $t->connection;
        request($s,
            $head->('/a', 'x' x 10, 'Content-Length: 10'), $pause ? 'xx' : ());
        close $s;
        is(($t->words)[-1], 'ABORTED', 'a client that leaves');
        is counted($t, 'aborted'), ++$n, 'counted';
        $t->words;
    }

    # an error page does not judge a part of a body as if it were the whole

    for my $case ([400, "2\r\nxx\r\nzz\r\n"], [413, "7d0\r\n" . 'x' x 2000]) {
        my ($status, $body) = @$case;
        my $s = $t->connection;
        request($s, $head->('/page', 'xx', $chunked) . $body);
        is response($s, 5)->{status}, $status,
            "error_page $status";
        close $s;
        is(($t->words)[-1], 'ABORTED', 'ABORTED');
        is counted($t, 'aborted'), ++$n, 'counted once';
        $t->words;
    }

    is counted($t, 'error'), 0, 'none of them is an error';
    is scalar(my @seen = $t->seen), 0, 'nothing arrives';

    # what is not the client's fault is one

    rename "$t->{dir}/tmp-body", "$t->{dir}/gone";
    my $s = $t->connection;
    request($s, $head->('/a', 'x' x 900, 'Content-Length: 900'), 'x' x 900);
    is response($s, 5)->{status}, 500, 'a body that cannot be kept';
    close $s;
    ok wait_for(sub { $t->slurp('access.log') =~ m{^POST /a 500 \[ERROR\]}m }),
        'ERROR';
    is counted($t, 'error'), 1, 'counted as an error';
    is scalar(@seen = $t->seen), 0, 'nothing arrives';
    $t->{expect} = qr/tmp-body|open\(\)/;
    $t->end;
}

SKIP: {
    skip 'nginx has no HTTP/2', 1 if !$http2;
    my $t = Receiver->new(
        server => 'location /api { asana_hook_api hooks; }');
    (my $conf = $t->conf) =~ s/(listen [^;]*)/$1 http2/;
    $t->app->run($conf);
    my $call = sub {
        my ($end, @headers) = @_;
        my $h = HTTP2->new($t->connection);
        return ($h, $h->headers($end, @headers));
    };
    my @post = ([':method', 'POST'], [':path', '/a']);
    my ($h, $id) = $call->(1, @post, ['x-hook-secret', $secret]);
    is $h->wait($id)->{status}, 200, 'HTTP/2: handshake';
    for my $way (qw(reset close)) {
        ($h, $id) = $call->(0, @post,
            ['x-hook-signature', sign($secret, 'xx')]);
        $h->data($id, 'x', 0);
        $h->settle;
        $way eq 'reset' ? $h->reset($id) : $h->close;
        ok wait_for(sub { ($t->words)[-1] eq 'ABORTED' }), "$way: ABORTED";
    }
    $t->end;
}

done_testing;
