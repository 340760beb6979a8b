# Tests for asana_hook_gateway: how answers flow, what is held and what is
# not, temporary files, clients and upstreams that go.

use strict;
use warnings;

use lib 't/lib';

use IO::Select;
use Socket qw(SOL_SOCKET SO_LINGER);
use Test::More;

use HTTP2;
use Receiver qw(request response wait_for);
use Upstream;

my $n = 0;

my %ways = (
    'on'    => '',
    'off'   => 'proxy_buffering off;',
    'tiny'  => 'proxy_buffer_size 1k; proxy_buffers 2 1k; '
        . 'proxy_busy_buffers_size 1k;',
    'file'  => 'sendfile on; proxy_store DIR/stored; proxy_buffer_size 1k; '
        . 'proxy_buffers 2 1k; proxy_busy_buffers_size 1k;',
    'ignore' => 'proxy_ignore_client_abort on;',
    'error'  => 'proxy_intercept_errors on; error_page 502 =200 /other;'
);
my $t  = Receiver->new(location => 'asana_hook_enroll confirm;');
my $up = Upstream->new($t);
$t->{server} = 'location = /other { return 200 other; } '
    . 'location /api { asana_hook_api hooks; } ';
for my $way (sort keys %ways) {
    (my $lines = $ways{$way}) =~ s/DIR/$t->{dir}/;
    $lines .= "proxy_pass http://127.0.0.1:$up->{port};";
    $t->{server} .= "location = /c/$way { asana_hook_gateway hooks; $lines } "
        . "location = /p/$way { $lines } ";
}
my $conf = $t->conf;
my $h2   = ($t->nginx('-V'))[1] =~ /http_v2_module/;
my $two  = Receiver::port();
$conf =~ s/(listen 127.0.0.1:\d+;)/$1 listen 127.0.0.1:$two http2;/ if $h2;
$t->app->run($conf);

# a pending secret with a key of its own

sub pending {
    my $secret = sprintf 'secret-%04d-%s', ++$n, 's' x 40;
    $t->handshake("/h/$n", $secret);
    return ($secret, "/h/$n");
}

sub active {
    my ($uri, $secret) = @_;
    my $status = $t->deliver($uri, $secret, '{"events":[1]}')->{status};
    return { 200 => 'active', 503 => 'pending' }->{$status} || $status;
}

# the word for the last request of a path of which there were so many

my %times;

sub word {
    my ($uri) = @_;
    my ($times, @words) = (++$times{$uri});
    wait_for(sub {
        @words
            = $t->slurp('access.log') =~ /^\S+ \Q$uri\E \d+ \[(.*?)\]/mg;
        return @words >= $times;
    });
    return @words == $times ? $words[-1] : "$times requests, @words";
}

sub slurp {
    my ($s) = @_;
    my $raw = '';
    while (IO::Select->new($s)->can_read(15)) {
        sysread $s, $raw, 65536, length $raw or last;
    }
    close $s;
    $raw =~ s/^Date: [^\r]*\r\n//m;
    return $raw;
}

# the bytes of the gateway's answer and of the plain proxy's

sub both {
    my ($way, $plan, @steps) = @_;
    $up->plan($plan, @steps);
    return map { slurp($up->call("$_/$way", $plan)) } '/c', '/p';
}

# every byte as the plain proxy sends it, the header's order included

for my $way (qw(on off tiny file)) {
    for my $size (0, 1, 900, 1024, 20_000, 65_000) {
        my ($secret, $uri) = pending();
        my $body = qq({"x":"@{['y' x $size]}","X-Hook-Secret":"$secret"});
        my ($got, $plain) = both($way, "size-$way-$size",
            [send => Upstream::by_length(201, $body, 'Set-Cookie: a',
                'Set-Cookie: b', 'Location: http://x/')], 'close');
        ok $got eq $plain, "$way, $size: byte for byte";
        is word("/c/$way"), 'CONFIRMED', 'CONFIRMED';
        is active($uri, $secret), 'active', 'active';
    }
}
my @stored = glob "$t->{dir}/stored/c/*";
is scalar @stored, 0, 'nothing but a 200 is stored';

# larger than 64k, to a client that reads late: files and memory mixed

for my $way (qw(on off tiny file)) {
    for my $framing ('length', 'chunked') {
        my ($secret, $uri) = pending();
        my $body = qq({"X-Hook-Secret":"$secret","x":")
            . join('', map { sprintf '%07d ', $_ } 1 .. 800_000) . '"}';
        my $plan = $up->plan("large-$way-$framing",
            [send => $framing eq 'length' ? Upstream::by_length(201, $body)
            : Upstream::chunked(201, unpack '(a40000)*', $body)], 'close');
        my $s = $t->connection;
        request($s, Upstream::create("/c/$way", $plan));
        $up->reached($plan);
        IO::Select->new($s)->can_read(10);
        wait_for(sub { glob "$t->{dir}/tmp-proxy/*/*/*" }, 1)
            if $way eq 'tiny';
        my $raw = slurp($s);
        my ($head, $got) = split /\r\n\r\n/, $raw, 2;
        $got = join '', $got =~ /\G[0-9a-f]+\r\n(.*?)\r\n(?=[0-9a-f]+\r\n)/gs
            if $head =~ /chunked/;
        ok $got eq $body, "$way, 6.4 MB by $framing: whole"
            or diag length($got), ' of ', length $body;
        is word("/c/$way"), 'UNREADABLE', 'UNREADABLE';
        is active($uri, $secret), 'pending', 'still pending';
    }
}

# what is not looked at flows: a piece is there before the next one is sent

my $flow = 0;

sub flows {
    my ($what, $head, $method) = @_;
    my $plan = 'flow' . ++$flow;
    $up->plan($plan, [send => "$head\r\n\r\nfirst"], [gate => $plan],
        [send => ' last'], 'close');
    my $s = $t->connection;
    (my $text = Upstream::create('/c/off', $plan)) =~ s/^POST/$method/;
    request($s, $text);
    my $raw = '';
    while ($raw !~ /first/ && IO::Select->new($s)->can_read(5)) {
        sysread $s, $raw, 65536, length $raw or last;
    }
    like $raw, qr/first/, "$what: the first piece is there before the last";
    $up->open($plan);
    like slurp($s), qr/last/, 'and then the last';
    return word('/c/off');
}

for my $status (200, 202, 206, 302, 400, 403, 404, 410, 429, 500, 503) {
    is flows("POST, $status", "HTTP/1.1 $status X", 'POST'), '-', 'no word';
}
is flows("$_, 201", 'HTTP/1.1 201 X', $_), '-', 'no word'
    for qw(GET PUT DELETE PATCH);
is flows('201, known to be too large',
    "HTTP/1.1 201 X\r\nContent-Length: 65537", 'POST'), 'UNREADABLE',
    'UNREADABLE';
is flows('201, encoded', "HTTP/1.1 201 X\r\nContent-Encoding: br", 'POST'),
    'UNREADABLE', 'UNREADABLE';

# what is looked at is held whole: no byte before the last has come

for my $way (qw(on off tiny)) {
    my ($secret, $uri) = pending();
    my $all  = Upstream::created($secret);
    my $plan = $up->plan("held-$way", [send => substr $all, 0, -2],
        [gate => "held-$way"], [send => substr $all, -2], 'close');
    my $s = $up->call("/c/$way", $plan);
    ok !IO::Select->new($s)->can_read(0.3), "$way: held";
    is active($uri, $secret), 'pending', 'not confirmed by a part';
    $up->open($plan);
    my $status = response($s)->{status};
    is active($uri, $secret) . " $status", 'active 201',
        'active at the first byte of the answer';
    word("/c/$way");
}

# a reload in the middle of an answer that is held

{
    my ($secret, $uri) = pending();
    my $all  = Upstream::created($secret);
    my $plan = $up->plan('reload', [send => substr $all, 0, -9],
        [gate => 'reload'], [bytes => substr $all, -9], 'close');
    my $s   = $up->call('/c/on', $plan);
    my @old = $t->workers;
    kill 'HUP', $t->master;
    wait_for(sub { $t->workers > 1 }) or fail 'no reload';
    $up->open($plan);
    is response($s)->{status}, 201, 'a reload while it is held: the answer';
    is active($uri, $secret), 'active', 'active in the new worker';
    is word('/c/on'), 'CONFIRMED', 'CONFIRMED';
    ok wait_for(sub { Receiver::gone(@old) }), 'and the old one ends';
}

# the client goes while the answer is held in part

for my $case (['off', 'pending', '-'], ['on', 'pending', '-'],
    ['ignore', 'active', 'CONFIRMED'])
{
    my ($way, $state, $word) = @{$case};
    for my $reset (0, 1) {
        my ($secret, $uri) = pending();
        my $plan = "gone-$way-$reset";
        my $all  = Upstream::created($secret);
        $up->plan($plan, [send => substr $all, 0, -9], [gate => $plan],
            [send => substr $all, -9], 'close');
        my $s = $up->call("/c/$way", $plan);
        setsockopt $s, SOL_SOCKET, SO_LINGER, pack 'ii', 1, 0 if $reset;
        close $s;

        # without ignoring it, the request ends before Asana has answered
        my $got = $way eq 'ignore' ? undef : word("/c/$way");
        $up->open($plan);
        $got = word("/c/$way") if $way eq 'ignore';

        # when the going is ignored, nobody waits for the commit and its word
        my $any = $way eq 'ignore' ? qr/^(?:-|$word)$/ : qr/^$word$/;
        like $got, $any, "the client goes, $way: $word";
        ok wait_for(sub { active($uri, $secret) eq $state }), $state;
    }
}

# the upstream goes: what came goes on, and nothing is confirmed

for my $way (qw(on off tiny file)) {
    for my $end ('close', 'reset') {
        for my $framing ('length', 'chunked') {
            my ($secret, $uri) = pending();
            my $body = qq({"X-Hook-Secret":"$secret","x":") . 'y' x 3000 . '"}';
            my $all = $framing eq 'length' ? Upstream::by_length(201, $body)
                : Upstream::chunked(201, unpack '(a500)*', $body);
            my ($got, $plain) = both($way, "cut-$way-$end-$framing",
                [send => substr $all, 0, -20], $end);
            $_ = unframed($_) for $got, $plain;

            # a reset may take with it what was on the way
            if ($end eq 'close') {
                ok $got eq $plain, "$way, $framing, $end: what came"
                    or diag $got, "\n", $plain;
            }
            is word("/c/$way"), 'UNREADABLE', "$way, $framing, $end: UNREADABLE"
                if $end eq 'close' || $times{"/c/$way"}++ < 0;
            is active($uri, $secret), 'pending', 'pending';
        }
    }
}

# a cut answer is the end of its connection, and how chunks are cut is
# nginx's own affair

sub unframed {
    my ($raw) = @_;
    my ($head, $body) = split /\r\n\r\n/, $raw, 2;
    return $raw if $head !~ /chunked/;
    my $text = '';
    while ($body =~ s/^([0-9a-f]+)\r\n//) {
        my $length = hex $1 or return "$head\n$text END";
        $text .= substr $body, 0, $length, '';
        $body =~ s/^\r\n//;
    }
    return "$head\n$text";
}

# Asana cannot be reached; its answer is no answer

$up->plan('dead', 'close');
like slurp($up->call('/c/on', 'dead')), qr{^HTTP/1.1 502 }, 'no answer: 502';
is word('/c/on'), '-', 'no word';
like slurp($up->call('/c/error', 'dead')), qr/other$/, 'an error page';
is word('/other'), '-', 'no word';

# HEAD, HTTP/1.0 and pipelined clients

{
    my ($secret, $uri) = pending();
    $up->plan('old', [send => Upstream::created($secret)], 'close');
    my $s = $t->connection;
    request($s, "POST /c/on HTTP/1.0\r\nX-Plan: old\r\n"
            . "Content-Length: 1\r\n\r\nx");
    like slurp($s), qr/\Q$secret\E"\}$/, 'a client of HTTP/1.0';
    is active($uri, $secret), 'active', 'active';
    word('/c/on');
    my @hooks = map { [pending()] } 1 .. 4;
    for my $i (0 .. 3) {
        $up->plan("pipe$i",
            [bytes => Upstream::chunked(201,
                qq({"X-Hook-Secret":"$hooks[$i][0]"}))], 'close');
    }
    $s = $t->connection;
    request($s, join '', map { Upstream::create('/c/off', "pipe$_",
            $_ < 3 ? 'X: y' : 'Connection: close') } 0 .. 3);
    my $raw = slurp($s);
    is scalar(() = $raw =~ m{^HTTP/1.1 201 }mg), 4, 'four in a pipeline';
    is join(' ', map { active($_->[1], $_->[0]) } @hooks),
        'active active active active', 'all active';
}

# HTTP/2: streams beside each other, one of them reset while it is held

SKIP: {
    skip 'nginx has no HTTP/2', 8 if !$h2;
    my $h = HTTP2->new($t->connection($two));
    my @hooks = map { [pending()] } 1 .. 3;
    my @id;
    for my $i (0 .. 2) {
        my $all = Upstream::created($hooks[$i][0]);
        $up->plan("h2-$i", [send => substr $all, 0, -9], [gate => "h2-$i"],
            [send => substr $all, -9], 'close');
        push @id, $h->headers(1, [':method', 'POST'], [':path', '/c/on'],
            ['x-plan', "h2-$i"]);
        $up->reached("h2-$i");
    }
    $h->reset($id[1]);
    $h->settle;
    $up->open("h2-$_") for 2, 1, 0;
    for my $i (0, 2) {
        my $r = $h->wait($id[$i]);
        is $r->{status}, 201, 'HTTP/2: 201';
        like $r->{body}, qr/\Q$hooks[$i][0]\E"\}$/, 'its body';
    }
    is join(' ', map { active($_->[1], $_->[0]) } @hooks),
        'active pending active', 'the one that was reset is not confirmed';

    # and one whose client's going is ignored: what it is answered goes nowhere

    my ($secret, $uri) = pending();
    my $all = Upstream::created($secret);
    $up->plan('h2-ignore', [send => substr $all, 0, -9], [gate => 'h2-ignore'],
        [send => substr $all, -9], 'close');
    my $id = $h->headers(1, [':method', 'POST'], [':path', '/c/ignore'],
        ['x-plan', 'h2-ignore']);
    $up->reached('h2-ignore');
    $h->reset($id);
    $h->settle;
    $up->open('h2-ignore');
    like word('/c/ignore'), qr/^(?:-|CONFIRMED)$/,
        'a reset that is ignored: nobody waits for the word';
    ok wait_for(sub { active($uri, $secret) eq 'active' }), 'active';
    is $t->call('GET', '/api/')->{status}, 200, 'all is well';
    $h->close;
}

$t->secrecy(map { sprintf 'secret-%04d-%s', $_, 's' x 40 } 1 .. $n);
$t->end;

done_testing;
