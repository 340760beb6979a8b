# Tests for handshakes: what is one, what is answered, what is not.

use strict;
use warnings;

use lib 't/lib';

use Test::More;

use Receiver qw(request response sign secret_id);

my $t = Receiver->new(
    server => 'client_max_body_size 10m;',
    http   => 'map $arg_policy $policy { default first; ~. $arg_policy; }',
    location => 'asana_hook_enroll $policy;'
)->app->run;

my $secret = 'b537207f20cbfa02357cf448134da559e8bd39d61597dcd5631b8012eae53e81';

sub echoed {
    my ($r, $value) = @_;
    my @values = $r->{head} =~ /^X-Hook-Secret: (.*?)\r?$/mg;
    return "@values" eq (defined $value ? $value : '');
}

my $r = $t->handshake('/one', $secret);
is $r->{status}, 200, 'a handshake is answered with 200';
ok echoed($r, $secret), 'and the same secret';
is $r->{body}, '', 'and an empty body';
like $r->{head}, qr/^Content-Length: 0\r?$/m, 'of a stated length';
is(($t->words)[0], 'HANDSHAKE', 'and logged as such');
like $t->{lines}[0], qr/\[localhost\/one\] \[@{[secret_id($secret)]}\]/,
    'with its key and the id of the secret';

$r = $t->handshake('/one', $secret);
is $r->{status}, 200, 'the same secret again is answered';
ok echoed($r, $secret), 'and echoed';
$t->words;

$r = $t->handshake('/one', 'another-secret-0123456789');
is $r->{status}, 403, 'another secret for the same key is refused';
ok echoed($r), 'and not echoed';
is(($t->words)[0], 'REFUSED', 'REFUSED');
like $t->slurp('error.log'),
    qr/\[error\].*handshake refused.*already has an active secret.*URL of/,
    'and the log says why and what to do';

is $t->handshake('/one?policy=off', $secret)->{status}, 200,
    'a secret that is held is echoed under "off" too';
$t->words;

# lengths and characters

for my $case (
    [16,           'a' x 16,  200],
    [255,          'b' x 255, 200],
    [15,           'a' x 15,  400],
    [256,          'b' x 256, 400],
    ['no',         '',        400],
    ['a space',    'a' x 20 . ' ' . 'b' x 20, 400],
    ['a tab',      'a' x 20 . "\t" . 'b' x 20, 400],
    ['high',       'a' x 20 . "\xe9" . 'b', 400],
    ['DEL',        'a' x 20 . "\x7f" . 'b', 400],
    ['punctuation', '!"#$%&\'()*+,-./:;<=>?@[]^_`{|}~', 200]
    )
{
    my ($name, $value, $status) = @$case;
    $r = $t->handshake('/len/' . length($value) . "-$status", $value);
    is $r->{status}, $status, "$name characters: $status";
    ok echoed($r, $status == 200 ? $value : undef),
        $status == 200 ? 'echoed' : 'not echoed';
    is(($t->words)[0], $status == 200 ? 'HANDSHAKE' : 'MALFORMED', 'logged');
}

# headers

$r = $t->call('POST', '/case', ["x-hOOK-sECRET: $secret"], '');
is $r->{status}, 200, 'the name of the header has no case';
ok echoed($r, $secret), 'echoed in its usual case';

is $t->call('POST', '/two',
    ["X-Hook-Secret: $secret", "X-Hook-Secret: $secret"], '')->{status},
    400, 'the header twice is malformed';
is $t->call('POST', '/both',
    ["X-Hook-Secret: $secret", 'X-Hook-Signature: ' . sign($secret, '')],
    '')->{status}, 400, 'secret and signature together are malformed';
is $t->call('POST', '/both', ["X-Hook-Secret: $secret", 'X-Hook-Signature:'],
    '')->{status}, 400, 'with an empty signature too';
$t->words(4);

# nginx keeps headers in parts of 20: what stands in the second one counts

my $mac = sign($secret, '{}');
for my $n (0, 16 .. 22, 45) {
    my @fill = map {"X-Fill-$_: $_"} 1 .. $n;
    my @one  = ("X-Hook-Secret: $secret");
    my @sign = ("X-Hook-Signature: $mac");
    for my $case (
        ['HANDSHAKE', 200, @fill, @one],
        ['HANDSHAKE', 200, @one, @fill],
        ['MALFORMED', 400, @one, @fill, @one],
        ['MALFORMED', 400, @fill, @one, @one],
        ['MALFORMED', 400, @one, @fill, @sign],
        ['MALFORMED', 400, @sign, @fill, @one],
        ['VERIFIED', 200, @fill, @sign],
        ['VERIFIED', 200, @sign, @fill],
        ['MALFORMED', 403, @sign, @fill, @sign],
        ['MALFORMED', 403, @sign, @fill, 'X-Hook-Signature: ' . '0' x 64],
        ['UNSIGNED', 403, @fill, "X-Hook-Signatur: $mac"]
        )
    {
        my ($word, $status, @lines) = @$case;
        $r = $t->call('POST', '/parts', [@lines], '{}');
        is "$r->{status} @{[$t->words]}", "$status $word",
            "$n other headers: $word"
            or diag join "\n", @lines;
        ok echoed($r, $word eq 'HANDSHAKE' ? $secret : undef), 'its echo';
    }
}
$t->seen;

for my $method (qw(PUT PATCH DELETE)) {
    is $t->call($method, '/m', ["X-Hook-Secret: $secret"], '')->{status}, 403,
        "$method makes no handshake, but an unsigned delivery";
    is(($t->words)[0], 'UNSIGNED', 'UNSIGNED');
}

is $t->call('GET', '/m', ["X-Hook-Secret: $secret"])->{status}, 200,
    'GET makes no handshake and passes';
is(($t->words)[0], 'UNCHECKED', 'UNCHECKED');
is scalar(my @seen = $t->seen), 1, 'and only it has reached the application';
is $t->handshake('/m', $secret . 'x')->{status}, 200,
    'nothing was stored by these';
$t->words;

# bodies

for my $case (
    ['an object',      "Content-Length: 2\r\n\r\n{}"],
    ['a chunked body', "Transfer-Encoding: chunked\r\n\r\n"
            . "2\r\n{}\r\n0\r\n\r\n"],
    ['no length at all', "\r\n"],
    ['100 KB', "Content-Length: 100000\r\n\r\n" . 'x' x 100000]
    )
{
    my ($name, $rest) = @$case;
    my $s = $t->connection;
    (my $uri = "/body/$name") =~ s{[^\w/]}{-}g;
    request($s, "POST $uri HTTP/1.1\r\nHost: localhost\r\n"
            . "X-Hook-Secret: $secret\r\n$rest");
    $r = response($s);
    is $r->{status}, 200, "$name: answered";
    ok echoed($r, $secret), 'echoed';
    request($s, "GET /after HTTP/1.1\r\nHost: localhost\r\n\r\n");
    is response($s)->{status}, 200, 'and the connection goes on';
    close $s;
    is scalar(@seen = $t->seen), 1, 'the application saw the GET alone';
}

my $s = $t->connection;
request($s, "POST /expect HTTP/1.1\r\nHost: localhost\r\n"
        . "X-Hook-Secret: $secret\r\nContent-Length: 2\r\n"
        . "Expect: 100-continue\r\n\r\n", '{}');
is response($s)->{status}, 200, 'Expect: 100-continue';
close $s;

$r = $t->http("POST /old HTTP/1.0\r\nHost: localhost\r\n"
        . "X-Hook-Secret: $secret\r\n\r\n");
is $r->{status}, 200, 'HTTP/1.0';
ok echoed($r, $secret), 'echoed';

$s = $t->connection;
request($s,
    "POST /pipe/1 HTTP/1.1\r\nHost: localhost\r\n"
        . "X-Hook-Secret: $secret\r\nContent-Length: 2\r\n\r\n{}"
        . "POST /pipe/2 HTTP/1.1\r\nHost: localhost\r\n"
        . "X-Hook-Secret: $secret\r\n\r\n"
        . "GET /pipe/3 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
my $all = '';
1 while sysread $s, $all, 65536, length $all;
is scalar(my @n = $all =~ m{^HTTP/1\.1 200}mg), 3, 'three pipelined requests';
is scalar(@n = $all =~ /^X-Hook-Secret:/mg), 2, 'two of them handshakes';
close $s;
is scalar(@seen = $t->seen), 1, 'and one reaches the application';

$t->secrecy($secret, 'another-secret-0123456789', 'a' x 16);
$t->end;

# keys

$t = Receiver->new->app;
(my $conf = $t->conf) =~ s/asana_hook_zone \S+/asana_hook_zone \$http_x_key/;
$t->run($conf);

for my $case ([0, 400], [1, 200], [480, 200], [481, 400]) {
    my ($len, $status) = @$case;
    my $key = 'k' x $len;
    is $t->call('POST', '/', ["X-Hook-Secret: $secret", "X-Key: $key"], '')
        ->{status}, $status, "a key of $len bytes: $status";
    is $t->call('POST', '/',
        ['X-Hook-Signature: ' . sign($secret, 'x'), "X-Key: $key"], 'x')
        ->{status}, $status == 200 ? 200 : 403, 'and a delivery with it';
    is join(' ', $t->words(2)),
        $status == 200 ? 'HANDSHAKE VERIFIED' : 'MALFORMED UNKNOWN', 'logged';
}

$t->end;

# codes

$t = Receiver->new(location => 'asana_hook_status 404; '
        . 'asana_hook_enroll off;')->app->run;
is $t->handshake('/', $secret)->{status}, 404, 'asana_hook_status: refused';
is $t->handshake('/', 'short')->{status}, 400, 'malformed stays 400';
is $t->deliver('/', $secret, '{}')->{status}, 404, 'rejected';
$t->end;

done_testing;
