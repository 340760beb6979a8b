# Tests for asana_hook_dry_run: what would be rejected arrives and is named.

use strict;
use warnings;

use lib 't/lib';

use Test::More;

use Receiver qw(request sign wait_for);

my $secret = 'a-secret-of-printable-text-0123456789';
my $other  = 'another-secret-of-printable-text-0123';
my $t      = Receiver->new(
    zone     => 'pending=1h',
    level    => 'info',
    expect   => qr/cannot be opened/,
    server   => 'location /api { asana_hook_api hooks write=on; }
        location /answer {
            asana_hook hooks;
            asana_hook_dry_run on;
            asana_hook_heartbeat answer;
            proxy_pass http://127.0.0.1:APP;
        }
        location /wet {
            asana_hook hooks;
            asana_hook_dry_run off;
            proxy_pass http://127.0.0.1:APP;
        }
        location /small {
            asana_hook hooks;
            client_max_body_size 10;
            proxy_pass http://127.0.0.1:APP;
        }
        asana_hook_dry_run on;',
    location => 'asana_hook_enroll $arg_p;
        client_body_buffer_size 4k;
        add_header X-Word $asana_hook_status always;
        asana_hook_status 401;'
);
$t->{server} =~ s/APP/$t->{app_port}/g;
$t->app->run;

# Waits for the line of a request in the access log.

sub logged {
    my ($path, $word, $name) = @_;
    my ($uri) = $path =~ /^([^?]*)/;
    my $line = qr/^\S+ \Q$uri\E \d+ \[$word\]/m;
    ok wait_for(sub { $t->slurp('access.log') =~ $line }, 5),
        "$name: $word in the log";
    return;
}

# handshakes are served as always

for my $case (
    ['/h?p=first',   200, 'HANDSHAKE', "X-Hook-Secret: $secret"],
    ['/h2?p=off',    403, 'REFUSED',   "X-Hook-Secret: $secret"],
    ['/h3?p=first',  400, 'MALFORMED', 'X-Hook-Secret: short'],
    ['/h4?p=first',  400, 'MALFORMED', 'X-Hook-Secret:'],
    ['/h5?p=first',  400, 'MALFORMED', "X-Hook-Secret: $secret",
        "X-Hook-Secret: $other"],
    ['/h6?p=first',  400, 'MALFORMED', "X-Hook-Secret: $secret",
        'X-Hook-Signature: ' . '0' x 64],
    ['/p?p=confirm', 200, 'HANDSHAKE', "X-Hook-Secret: $other"]
    )
{
    my ($path, $status, $word, @headers) = @$case;
    $status = 401 if $status == 403;
    my $r = $t->call('POST', $path, [@headers], '');
    is $r->{status}, $status, "a handshake: $path: $status";
    is $r->{head} =~ /^X-Hook-Secret: /m ? 1 : 0, $status == 200 ? 1 : 0,
        'an echo with 200 alone';
    like $r->{head}, qr/^X-Word: $word\r$/m, "and $word";
    logged($path, $word, $path);
}
is scalar(my @none = $t->seen), 0, 'nothing of it arrives';
is $t->deliver('/h?p=first', $secret, 'x')->{status}, 200,
    'and what was taken verifies';
$t->seen;

# deliveries, byte for byte, with the word in a header

my $zeros = '0' x 64;
my $big = join '', map { chr(($_ * 7 + ($_ >> 8)) % 256) } 1 .. 100_000;
my $events = '{"events":[{"x":1}]}';
my $heartbeat = '{"events":[]}';

sub signed {
    my ($s, $body) = @_;
    return 'X-Hook-Signature: ' . sign($s, $body);
}

sub rejected {
    return scalar(() = $t->slurp('error.log') =~ /hook: request rejected/g);
}

my $before = rejected();
for my $case (
    ['unsigned',       'UNSIGNED_DRY_RUN',  '/h', $events],
    ['unsigned, big',  'UNSIGNED_DRY_RUN',  '/h', $big],
    ['unsigned, none', 'UNSIGNED_DRY_RUN',  '/h', ''],
    ['empty',          'MALFORMED_DRY_RUN', '/h', $events,
        'X-Hook-Signature:'],
    ['malformed',      'MALFORMED_DRY_RUN', '/h', $events,
        'X-Hook-Signature: xyz'],
    ['repeated',       'MALFORMED_DRY_RUN', '/h', $big,
        "X-Hook-Signature: $zeros", "X-Hook-Signature: $zeros"],
    ['unknown',        'UNKNOWN_DRY_RUN',   '/none', $events,
        signed($secret, $events)],
    ['too long a key', 'UNKNOWN_DRY_RUN',   '/' . 'k' x 480, $events,
        signed($secret, $events)],
    ['invalid',        'INVALID_DRY_RUN',   '/h', $events,
        "X-Hook-Signature: $zeros"],
    ['invalid, big',   'INVALID_DRY_RUN',   '/h', $big,
        "X-Hook-Signature: $zeros"],
    ['another secret', 'INVALID_DRY_RUN',   '/h', $events,
        signed($other, $events)],
    ['pending',        'PENDING_DRY_RUN',   '/p', $events,
        signed($other, $events)],
    ['pending, big',   'PENDING_DRY_RUN',   '/p', $big,
        signed($other, $big)],
    ['pending, heartbeat', 'PENDING_DRY_RUN', '/p', $heartbeat,
        signed($other, $heartbeat)],
    ['verified',       'VERIFIED',          '/h', $events,
        signed($secret, $events)],
    ['verified, big',  'VERIFIED',          '/h', $big,
        signed($secret, $big)],
    ['heartbeat',      'HEARTBEAT',         '/h', $heartbeat,
        signed($secret, $heartbeat)]
    )
{
    my ($name, $word, $path, $body, @headers) = @$case;
    for my $how ('length', 'pieces', 'chunked', 'PUT') {
        my $method = $how eq 'PUT' ? 'PUT' : 'POST';
        my $head = join "\r\n", "$method $path?p=off HTTP/1.1",
            'Host: localhost', 'Connection: close', @headers;
        my @pieces = ("$head\r\nContent-Length: " . length($body)
                . "\r\n\r\n", $body);
        @pieces = (join '', @pieces) if $how ne 'pieces';
        if ($how eq 'chunked') {
            @pieces = ("$head\r\nTransfer-Encoding: chunked\r\n\r\n"
                    . join('', map { sprintf "%x\r\n%s\r\n", length, $_ }
                        $body =~ /(.{1,30000})/gs)
                    . "0\r\n\r\n");
        }
        my $r = $t->http(@pieces);
        is $r->{status}, 200, "$name, $how: 200";
        is $r->{body}, 'app', 'from the application';
        like $r->{head}, qr/^X-Word: $word\r$/m, $word;
        my ($seen, @more) = $t->seen;
        ok $seen && !@more, 'which sees it once';
        ok $seen->[1] eq $body, 'byte for byte';
        like $seen->[0], qr/^X-Asana-Hook-Status: $word\r?$/m, 'by its word';
    }
    logged($path, $word, $name);
}
is rejected() - $before, 4 * 13, 'what would be rejected is logged as always';

# other requests are what they always are

my $r = $t->call('GET', '/h');
is $r->{status}, 200, 'GET';
like $r->{head}, qr/^X-Word: UNCHECKED\r$/m, 'UNCHECKED';
$t->seen;

# a heartbeat that is answered here

is $t->handshake('/answer', $secret)->{status}, 200, 'a handshake';
is $t->deliver('/answer', $secret, $heartbeat)->{body}, '',
    'heartbeat answer';
is scalar(@none = $t->seen), 0, 'stays here';
is $t->deliver('/answer', $other, $heartbeat)->{body}, 'app',
    'one that would be rejected';
is scalar(@none = $t->seen), 1, 'arrives';

# off within on

is $t->handshake('/wet', $secret)->{status}, 200, 'dry_run off';
is $t->deliver('/wet', $other, $events)->{status}, 403, 'rejects';
is $t->call('POST', '/wet', [], 'x')->{status}, 403, 'what is unsigned too';

# what nginx cannot read stays out

is $t->handshake('/small', $secret)->{status}, 200, 'a small location';
is $t->deliver('/small', $secret, 'x' x 11)->{status}, 413, 'a large body';
is $t->http("POST /small HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        . "Transfer-Encoding: chunked\r\nX-Hook-Signature: $zeros\r\n\r\n"
        . "20\r\n" . 'x' x 32 . "\r\n0\r\n\r\n")->{status}, 413,
    'a large body, chunked';
is $t->http("POST /h HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        . "Transfer-Encoding: chunked\r\nX-Hook-Signature: $zeros\r\n\r\n"
        . "zz\r\n")->{status}, 400, 'a body that is no body';
my $s = $t->connection;
request($s, "POST /h HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
        . "Expect: 100-continue\r\nX-Hook-Signature: $zeros\r\n\r\n");
like readline $s, qr/100/, 'nginx waits for the body';
request($s, 'half');
close $s;
ok wait_for(sub { $t->slurp('access.log') =~ m{^POST /h 400 \[ABORTED\]}m }, 5),
    'a body that is cut short: ABORTED';
is scalar(@none = $t->seen), 0, 'none of them arrives';

$t->secrecy($secret, $other, sign($secret, $events), sign($other, $events));
$t->end;

# a store that nobody can read: handshakes fail, deliveries pass

SKIP: {
    skip 'root reads everything', 5 if $> != 0;
    $t = Receiver->new(
        location => 'asana_hook_dry_run on;',
        expect   => qr/asana_hook: store/
    );
    my ($code) = $t->test_config($t->conf);
    mkdir "$t->{dir}/state/data.mdb";
    $t->app->run;
    is $t->handshake('/a', $secret)->{status}, 503, 'no store: a handshake';
    is $t->deliver('/a', $secret, $events)->{status}, 200, 'a delivery';
    is +($t->seen)[0][1], $events, 'arrives';
    logged('/a', 'ERROR_DRY_RUN', 'no store');
    $t->end;
}

done_testing;
