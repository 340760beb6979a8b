# Tests for deliveries: what is one, which pass, which do not and why.

use strict;
use warnings;

use lib 't/lib';

use Test::More;

use Receiver qw(request response sign secret_id);

my $t = Receiver->new->app->run;
my $secret = 'b537207f20cbfa02357cf448134da559e8bd39d61597dcd5631b8012eae53e81';
my %vector = (
    '{"events":[]}' =>
        '10468027b67df18c739cc4794c6fc2d2806dcaaf2259fc3e1ed9d26433659853',
    '{}' => '39f1fb4a4359a0385c33a84aea39e4589b2076d13a00af907a2e47fe16d2668a',
    ''   => '192bccc919030961ea1076ef87c224e093b0c43e29c1ccbc55db972136f926b4'
);
my @seen;

is $t->handshake('/a', $secret)->{status}, 200, 'handshake';
$t->words;

# passes

for my $body (sort keys %vector) {
    my $r = $t->call('POST', '/a', ["X-Hook-Signature: $vector{$body}"], $body);
    is $r->{status}, 200, "the vector of '$body' passes";
    is $r->{body}, 'app', 'and is answered by the application';
    @seen = $t->seen;
    is $seen[0][1], $body, 'which got the very bytes';
    my $word = $body eq '{"events":[]}' ? 'HEARTBEAT' : 'VERIFIED';
    like $seen[0][0], qr/^X-Asana-Hook-Status: $word\r?$/m, "and the word $word";
    is(($t->words)[0], $word, 'which is logged');
    like $t->{lines}[0], qr/\[@{[secret_id($secret)]}\]$/,
        'with the id of the secret';
}

is $t->call('POST', '/a', ['X-Hook-Signature: ' . uc $vector{'{}'}], '{}')
    ->{status}, 200, 'hex digits have no case';
is $t->call('POST', '/a', ["x-hook-signature: $vector{'{}'}"], '{}')->{status},
    200, 'nor has the name of the header';
is $t->deliver('/a', $secret, '{}', 'X-Asana-Hook-Status: UNCHECKED')->{status},
    200, 'a client that sends the header for the application';
@seen = $t->seen;
is join(' ', $seen[-1][0] =~ /^X-Asana-Hook-Status: (\w+)/mgi), 'VERIFIED',
    'has it overwritten';
$t->words(3);

for my $body (
    '{"events":[]}',           " { \"events\" : [ ] } ",
    "{\r\n\t\"events\": [\n]\n}\n", "\n{\"events\":[]}"
    )
{
    is $t->deliver('/a', $secret, $body)->{status}, 200, 'a spaced heartbeat';
    is(($t->words)[0], 'HEARTBEAT', 'is one');
}

for my $body (
    '{"events":[{}]}', '{"events":[]},', '{"events":[]', '{"events":[],"x":1}',
    '[]', '{"event":[]}', '{"events":{}}', "{\"events\":[]}\0", '{"events": []}x',
    '{"eve nts":[]}', "\x0b{\"events\":[]}", ' '
    )
{
    is $t->deliver('/a', $secret, $body)->{status}, 200, 'another body';
    is(($t->words)[0], 'VERIFIED', 'is no heartbeat');
}

for my $method (qw(PUT PATCH DELETE)) {
    is $t->call($method, '/a', ['X-Hook-Signature: ' . sign($secret, 'x')],
        'x')->{status}, 200, "a signed $method passes";
}
is $t->call('GET', '/a', ['X-Hook-Signature: ' . sign($secret, 'x')], 'x')
    ->{status}, 200, 'a signed GET with a body passes';
is join(' ', $t->words(4)), 'VERIFIED VERIFIED VERIFIED VERIFIED', 'VERIFIED';

# "untouched"

for my $method (qw(GET HEAD OPTIONS)) {
    my $r = $t->call($method, '/a');
    is $r->{status}, 200, "$method without a body passes";
    is(($t->words)[0], 'UNCHECKED', 'UNCHECKED');
}
is $t->call('GET', '/a', ['Content-Length: 0'])->{status}, 200,
    'a length of zero is no body';
is(($t->words)[0], 'UNCHECKED', 'UNCHECKED');
is $t->call('TRACE', '/a')->{status}, 405, 'TRACE is answered by nginx';
$t->words;

# does not pass

$t->seen;

my $good = "X-Hook-Signature: $vector{'{}'}";
my @cases = (
    ['no signature',     'POST', '/a', [], 'UNSIGNED'],
    ['no signature',     'PUT', '/a', [], 'UNSIGNED'],
    ['no signature',     'DELETE', '/a', [], 'UNSIGNED'],
    ['no signature',     'PROPFIND', '/a', [], 'UNSIGNED'],
    ['no signature',     'ASANA', '/a', [], 'UNSIGNED'],
    ['no signature',     'GET', '/a', [], 'UNSIGNED'],
    ['no signature',     'HEAD', '/a', [], 'UNSIGNED'],
    ['no signature',     'OPTIONS', '/a', [], 'UNSIGNED'],
    ['an empty one',     'POST', '/a', ['X-Hook-Signature:'], 'MALFORMED'],
    ['two',              'POST', '/a', [$good, $good], 'MALFORMED'],
    ['63 digits',        'POST', '/a', [substr $good, 0, -1], 'MALFORMED'],
    ['65 digits',        'POST', '/a', ["${good}0"], 'MALFORMED'],
    ['other characters', 'POST', '/a', [substr($good, 0, -1) . 'g'],
        'MALFORMED'],
    ['a prefix', 'POST', '/a', ["X-Hook-Signature: sha256=$vector{'{}'}"],
        'MALFORMED'],
    ['another key', 'POST', '/b', [$good], 'UNKNOWN']
);

# what asks first is read for each key alike: t/expect.t

for my $case (@cases) {
    my ($name, $method, $uri, $headers, $word) = @$case;

    # the answer comes although the body does not

    my $s = $t->connection;
    request($s, join "\r\n", "$method $uri HTTP/1.1", 'Host: localhost',
        'Content-Length: 2',
        $word eq 'UNKNOWN' ? () : 'Expect: 100-continue', @$headers, '', '');
    my $r = response($s, 5, $method eq 'HEAD');
    is $r->{status}, 403, "$name, $method: rejected";
    ok !$r->{continued}, 'the body was not asked for';
    close $s;
    is(($t->words)[0], $word, $word);
}

for my $method (qw(POST PUT DELETE PATCH ASANA)) {
    is $t->call($method, '/a')->{status}, 403,
        "$method without a body is a delivery";
    is(($t->words)[0], 'UNSIGNED', 'UNSIGNED');
}

is $t->http("GET /a HTTP/1.1\r\nHost: localhost\r\n"
        . "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")->{status},
    403, 'a GET with a chunked body is a delivery';
is(($t->words)[0], 'UNSIGNED', 'UNSIGNED');

for my $case (
    ['{ }',                      $vector{'{}'},  'another body'],
    ['{}',                       '0' x 64,       'zeros'],
    ['{}', sign(substr($secret, 1), '{}'),       'another secret'],
    ['{}', sign(pack('H*', $secret), '{}'),      'the secret decoded'],
    ['',                         $vector{'{}'},  'nothing'],
    ['{}', substr($vector{'{}'}, 0, 63) . '0',   'the last digit']
    )
{
    my ($body, $mac, $name) = @$case;
    is $t->call('POST', '/a', ["X-Hook-Signature: $mac"], $body)->{status},
        403, "$name: rejected";
    is(($t->words)[0], 'INVALID', 'INVALID');
}

is scalar(@seen = $t->seen), 0, 'nothing of this reached the application';

like $t->slurp('error.log'), qr/\[error\].*asana_hook: request rejected/,
    'the log tells of it';
like $t->call('POST', '/a')->{body}, qr/403 Forbidden/,
    'the body of the answer is the usual short page';

$t->secrecy($secret, values %vector);
$t->end;

# keys: "$" of a regular expression lets a new line pass

$t = Receiver->new(
    level  => 'debug',
    server => 'location ~ ^/receive/(?<hook>[0-9]+)$ {
            asana_hook hooks; proxy_pass http://127.0.0.1:APP;
        }'
);
$t->{server} =~ s/APP/$t->{app_port}/;
$t->app->run;
is $t->handshake('/receive/1200', $secret)->{status}, 200, 'a good key';
$t->words(1);
for my $uri ('/receive/1200%0A',
    map { sprintf '/a%%%02Xb', $_ } 1 .. 31, 127)
{
    is $t->handshake($uri, $secret)->{status}, 400, "$uri is no good";
    is $t->deliver($uri, $secret, '{}')->{status}, 403, 'nor for a delivery';
    is join(' ', ($t->words(2))[-2, -1]), 'MALFORMED UNKNOWN', 'as is logged';
}
for my $uri ('/%20', '/%7E', '/%80', '/%C3%A4', '/%FF') {
    is $t->handshake($uri, $secret)->{status}, 200, "$uri is good";
    is $t->deliver($uri, $secret, '{}')->{status}, 200, 'for a delivery';
}
$t->end;

# the level of the messages

for my $level (qw(info notice warn error)) {
    $t = Receiver->new(location => "asana_hook_log_level $level;")->app->run;
    $t->call('POST', '/a');
    $t->words;
    like $t->slurp('error.log'), qr/\[$level\].*request rejected/, $level;
    $t->end;
}

done_testing;
