# Tests for answers to verified deliveries: what Asana gets is counted, and
# kept for each secret.

use strict;
use warnings;

use lib 't/lib';

use JSON::PP;
use Test::More;
use Time::HiRes qw(time);
use Time::Local qw(timegm);

use Receiver qw(port request response sign wait_for);
use HTTP2;
use Postgres;
use Upstream;

my $secret = 'a-secret-of-printable-text-0123456789';
my ($body, $heartbeat) = ('{"events":[{"action":"changed"}]}', '{"events":[]}');

my $t    = Receiver->new(expect => qr/Connection refused|too large body/);
my $up   = Upstream->new($t);
my $down = port();
my $port = port();
my $http2 = ($t->nginx('-V'))[1] =~ /http_v2_module/;

$t->{server} = <<"END";
    @{[$http2 ? "listen 127.0.0.1:$port http2;" : '']}
    location /api { asana_hook_api hooks write=on; }
    location /off {
        asana_hook hooks;
        asana_hook_ack off;
        proxy_pass http://127.0.0.1:$t->{app_port};
    }
    location /error {
        asana_hook hooks;
        proxy_intercept_errors on;
        error_page 500 = /other;
        proxy_pass http://127.0.0.1:$t->{app_port};
    }
    location = /other { return 204; }
    location /after {
        asana_hook hooks;
        post_action /other;
        proxy_pass http://127.0.0.1:$t->{app_port};
    }
    location /here {
        asana_hook hooks;
        asana_hook_heartbeat answer;
        proxy_pass http://127.0.0.1:$t->{app_port};
    }
    location /down {
        asana_hook hooks;
        proxy_pass http://127.0.0.1:$down;
    }
    location /dry {
        asana_hook hooks;
        asana_hook_dry_run on;
        proxy_pass http://127.0.0.1:$t->{app_port};
    }
    location /large {
        asana_hook hooks;
        try_files /none /small;
    }
    location = /small { client_max_body_size 10; return 200; }
    location /slow {
        asana_hook hooks;
        proxy_pass http://127.0.0.1:$up->{port};
    }
    location /ignore {
        asana_hook hooks;
        proxy_ignore_client_abort on;
        proxy_pass http://127.0.0.1:$up->{port};
    }
END
$t->app->run;

# Of what comes in one second the health does not know the order.

sub next_second {
    my $second = int(time);
    return wait_for(sub { int(time) > $second });
}

# All counts that are not 0, of GET / and of the metrics.

sub answers {
    my $all = decode_json($t->call('GET', '/api/')->{body})->{answers};
    my %sums = $t->call('GET', '/api/metrics')->{body}
        =~ /^asana_hook_answers_total\{zone="hooks",class="(\w+)"\} (\d+)$/mg;
    is_deeply \%sums, $all, 'metrics and GET / agree';
    return join ' ', map {"$_=$all->{$_}"} grep { $all->{$_} } sort keys %$all;
}

sub hook {
    my ($uri) = @_;
    my $r = $t->call('GET', "/api/hooks?key=localhost$uri");
    return decode_json($r->{body})->{secrets}[0];
}

sub code { my $code = hook(@_)->{code}; return defined $code ? $code : 'none' }

# At once in the zone, unless a commit is under way: then with the next one.

sub kept {
    my ($uri, $want, $name) = @_;
    wait_for(sub { code($uri) eq $want }, 5);
    return is code($uri), $want, $name;
}

sub commits {
    return decode_json($t->call('GET', '/api/')->{body})->{store}{commits};
}

sub deliver { my ($uri, $text) = @_; return $t->deliver($uri, $secret, $text) }

my @uris = qw(/a /off /error /after /here /down /dry /large /slow /ignore);
$t->handshake($_, $secret)->{status} == 200 or die "no handshake: $_\n"
    for @uris;

is answers(), '', 'nothing yet';
is code('/a'), 'none', 'no code';
is hook('/a')->{answered}, undef, 'no answer';

# [what, uri, the application's code, what Asana gets, the class]

my @cases = (
    ['200',                  '/a',     200, 200, 'success'],
    ['204',                  '/a',     204, 204, 'success'],
    ['another 2xx',          '/a',     202, 200, 'success'],
    ['410',                  '/a',     410, 503, '5xx'],
    ['a redirect',           '/a',     302, 302, '3xx'],
    ['404',                  '/a',     404, 404, '4xx'],
    ['413',                  '/a',     413, 413, '4xx'],
    ['500',                  '/a',     500, 500, '5xx'],
    ['no ack, 202',          '/off',   202, 202, '2xx'],
    ['no ack, 410',          '/off',   410, 410, '4xx'],
    ['another page',         '/error', 500, 204, 'success'],
    ['another one after it', '/after', 500, 500, '5xx'],
    ['no application',       '/down',  200, 502, '5xx'],
    ['nginx refuses it',     '/large', 200, 413, '4xx'],
    ['a verified dry run',   '/dry',   404, 404, '4xx'],
);

my %want;

sub want { return join ' ', map {"$_=$want{$_}"} sort keys %want }

for (@cases) {
    my ($what, $uri, $app, $status, $class) = @$_;
    $t->answer($app, $app == 302 ? "Location: /x\r\n" : '');
    is deliver($uri, $body)->{status}, $status, "answered: $what";
    $want{$class}++;
    is answers(), want(), "counted as $class";
    kept($uri, $status, 'and kept');
}

# no delivery, no answer

$t->answer(500);
is $t->call('GET', '/a')->{status}, 500, 'unchecked';
is $t->deliver('/a', $secret x 2, $body)->{status}, 403, 'invalid';
is $t->deliver('/dry', $secret x 2, $body)->{status}, 500, 'in a dry run';
is answers(), want(), 'are no answers';
kept('/a', 500, 'nor a code');

# heartbeats are deliveries

is deliver('/here', $heartbeat)->{status}, 200, 'answered here';
$want{success}++;
is answers(), want(), 'counted';
kept('/here', 200, 'kept');
like hook('/here')->{answered}, qr/^20/, 'with a time';
is deliver('/here', $body)->{status}, 500, 'the application fails';
$want{'5xx'}++;
like hook('/here')->{answered}, qr/^20/, 'the last success stays';

# the client leaves before the answer

my $length = length $body;
my $head   = "Host: localhost\r\nX-Hook-Signature: " . sign($secret, $body)
    . "\r\nContent-Length: $length\r\n";

for my $uri ('/slow', '/ignore') {
    my $ok = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    my $name = substr $uri, 1;
    my $plan = $up->plan($name, [gate => "go$uri" =~ tr{/}{}dr],
        [send => $ok]);
    my $s = $t->connection;
    request($s, "POST $uri HTTP/1.1\r\n${head}X-Plan: $name\r\n\r\n$body");
    $up->reached($name);
    is hook($uri)->{deliveries}, 0, "$uri: it waits for its answer";
    close $s;
    if ($uri eq '/ignore') {
        $t->call('GET', '/api/');
        $up->open('goignore');
    }
    ok wait_for(sub { hook($uri)->{deliveries} }), 'it ends';
    $want{aborted}++;
    is answers(), want(), 'aborted';
    kept($uri, 499, 'with nginx\'s code for it');
    like hook($uri)->{verified}, qr/^20/, 'it has verified all the same';
    is hook($uri)->{answered}, undef, 'but nobody had an answer';
}

# over HTTP/2 a stream ends before its connection

if ($http2) {
    $t->answer(200);
    my @request = ([':method', 'POST'], ['content-length', length $body],
        ['x-hook-signature', sign($secret, $body)]);
    my $h  = HTTP2->new($t->connection($port));
    my $id = $h->headers(0, @request, [':path', '/a']);
    $h->data($id, $body, 1);
    is $h->wait($id)->{status}, 200, 'HTTP/2: a delivery';
    $want{success}++;
    is answers(), want(), 'is a success';

    my $plan = $up->plan('stream', [gate => 'gostream'],
        [send => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]);
    my $n = hook('/slow')->{deliveries};
    $id = $h->headers(0, @request, [':path', '/slow'], ['x-plan', $plan]);
    $h->data($id, $body, 1);
    $up->reached($plan);
    close $h->{s};
    ok wait_for(sub { hook('/slow')->{deliveries} > $n }), 'it leaves';
    $want{aborted}++;
    is answers(), want(), 'aborted';
    kept('/slow', 499, 'and kept');
}

# what the operator is told

sub health {
    my ($uri) = @_;
    my $key = decode_json($t->call('GET', "/api/hooks?key=localhost$uri")
            ->{body});
    is $key->{health}, $key->{secrets}[0]{health}, "$uri: of its one secret";
    return $key->{health};
}

sub seconds {
    my ($at) = @_;
    my @at = reverse $at =~ /\d+/g;
    return timegm(@at[0 .. 3], $at[4] - 1, $at[5]);
}

$t->handshake('/fresh', $secret);
is health('/fresh'), 'new', 'nothing came yet';
is hook('/fresh')->{$_}, undef, "no $_" for qw(failing_since deleted_at);
kept('/down', 502, 'kept');
is health('/down'), 'failing', 'it fails';
my $failing = seconds(hook('/down')->{failing_since});
cmp_ok abs(time - $failing), '<', 60, 'since then';
is seconds(hook('/down')->{deleted_at}) - $failing, 24 * 3600,
    'and is deleted a day later';
$t->answer(200);
next_second();
is deliver('/a', $body)->{status}, 200, 'a success';
kept('/a', 200, 'kept');
is health('/a'), 'ok', 'is well';

# the log tells of the first failure, and of the success after it

sub told {
    my ($what) = @_;
    my @lines = $t->slurp('error.log')
        =~ /^.*\[(\w+)\].* webhook of key "localhost\/a" .* $what/mg;
    return join ' ', @lines;
}

my @told = (told('fails: Asana got 500'), told('succeeds'));
$t->answer(500);
next_second();
is deliver('/a', $body)->{status}, 500, 'a failure' for 1 .. 3;
is told('fails: Asana got 500'), "$told[0] error" =~ s/^ //r, 'is told once';
like $t->slurp('error.log'), qr/24 hours, client: [^,]*, server: localhost, /,
    'with its server';
$t->answer(200);
is deliver('/a', $body)->{status}, 200, 'a success' for 1 .. 3;
is told('succeeds'), "$told[1] notice" =~ s/^ //r, 'and its end, once';

# a restart forgets nothing, though all of it came within an hour

$t->answer(200);
is deliver('/a', $body)->{status}, 200, 'a success';
my $before = commits();
my $end = time + 2.2;
while (time < $end) {
    $t->answer(200);
    deliver('/a', $body);
    $t->answer(503);
    deliver('/a', $body);
}
cmp_ok commits() - $before, '<=', 8, 'one that flaps: twice a second at most';
next_second();
is deliver('/a', $body)->{status}, 503, 'a failure';
wait_for(sub { hook('/a')->{code} == 503 });
my $was = hook('/a');
$t->stop;
$t->start;
my $is = hook('/a');
is_deeply [@$is{qw(answered code failing_since)}],
    [@$was{qw(answered code failing_since)}],
    'a restart forgets nothing';

# in one state the time alone is written, once an hour

$t->answer(503);
$before = commits();
deliver('/a', $body) for 1 .. 3;
next_second();
deliver('/a', $body);
is commits(), $before, 'the same state is not written again';
$t->answer(200);
deliver('/a', $body);
ok wait_for(sub { commits() == $before + 1 }), 'a success is';

$t->end;

# what one host of a fleet has noted, the others tell

SKIP: {
    my $missing = Postgres::missing();
    skip $missing, 1 if $missing;

    my $pg = Postgres->new;
    my ($one, $two) = map {
        Receiver->new(
            fleet  => $pg->uri,
            zone   => "encryption_key=$pg->{dir}/key poll=300ms",
            server => 'location /api { asana_hook_api hooks; }'
        )->app->run
    } 1, 2;
    my $at = sub {
        my ($host) = @_;
        my $r = $host->call('GET', '/api/hooks?key=localhost/a');
        my $s = decode_json($r->{body})->{secrets}[0];
        return join ' ', $s->{health}, $s->{code} // 'none';
    };

    is $one->handshake('/a', $secret)->{status}, 200, 'a handshake';
    is $at->($two), 'new none', 'both know it';
    $_->answer(500) for $one, $two;
    is $one->deliver('/a', $secret, $body)->{status}, 500, 'one fails';
    ok wait_for(sub { $at->($two) eq 'failing 500' }), 'the other one tells';
    is $two->deliver('/a', $secret, $body)->{status}, 500, 'it fails, too';
    next_second();
    $_->answer(204) for $one, $two;
    is $one->deliver('/a', $secret, $body)->{status}, 204, 'one is well';
    ok wait_for(sub { $at->($two) eq 'ok 204' }), 'so both of them are';
    $_->end for $one, $two;
}

done_testing;
