# Tests for the page at the API's location, in Chromium.

use strict;
use warnings;

use lib 't/lib';

use JSON::PP qw(decode_json);
use Test::More;

use Receiver qw(wait_for);

my ($chromium) = grep {-x} qw(/usr/bin/chromium /usr/bin/chromium-browser);
plan skip_all => 'needs chromium' if !$chromium;
plan skip_all => 'needs playwright-core (npm, in build/node)'
    if !-d 'build/node/node_modules/playwright-core';

my $t = Receiver->new(
    zone     => 'max_secrets=3',
    server   => <<'END',
    location /api { asana_hook_api hooks write=on; }
    location /look/ { asana_hook_api hooks; }
    location /gateway { asana_hook_gateway hooks; proxy_pass http://127.0.0.1:9; }
END
    location => 'asana_hook_enroll $arg_p;'
)->app->run;
my $secret = 'a-secret-of-printable-text-0123456789';
my $body   = '{"events":[{"action":"changed"}]}';

# what a browser gets, and what a program gets

my $r = $t->call('GET', '/api/', ['Accept: text/html,*/*']);
like $r->{head}, qr{^Content-Type: text/html; charset=utf-8\r$}m, 'a page';
my ($policy) = $r->{head} =~ /^Content-Security-Policy: (.*)\r$/m;
like $policy, qr/^default-src 'none'; /, 'nothing is allowed';
unlike $policy, qr/unsafe/, 'but what is hashed';
like $t->call('GET', '/api/', ['Accept: */*'])->{head},
    qr{^Content-Type: application/json\r$}m, 'a document for all else';
is $t->call('GET', '/api/?a=1', ['Accept: text/html'])->{status}, 400,
    'it takes no argument';

# one that fails, one that is pending, one to be revoked, strange ones, and many

sub put {
    my ($key) = @_;
    return $t->call('PUT', "/api/hooks?key=$key", ["X-Hook-Secret: $secret"])
        ->{status};
}

$t->handshake('/fails?p=first', $secret);
$t->answer(500, '', 'broken');
$t->deliver('/fails?p=first', $secret, $body);
$t->handshake('/waits?p=confirm', $secret);
$t->deliver('/unknown', $secret, $body);
is $t->call('POST', '/gateway', ['Sec-Fetch-Site: cross-site'], '')->{status},
    403, 'an event without a key';
put('a/to-be-revoked');
put('a/%3Cscript%3Ewindow.ran=1%3C%2Fscript%3E%3Cimg%20src=x%3E');
put('a/script-%FF%FE-%E2%80%AE');
put("many/$_") for 1 .. 1_000;

my $base = "http://127.0.0.1:$t->{port}";
my $pictures = $ENV{ASANA_HOOK_PICTURES} || '';
my $text = qx(NODE_PATH=build/node/node_modules timeout 120 node t/lib/page.js \\
    $chromium $base/api $base//look/ $pictures 2>$t->{dir}/page.err);
is $?, 0, 'the browser ends well' or diag $t->slurp('page.err');
my $seen = $? == 0 ? decode_json($text) : {};

is_deeply $seen->{errors}, [], 'no error in its console';
is_deeply $seen->{elsewhere}, [], 'no request to elsewhere';
like $seen->{store}, qr/store lmdb is well/, 'the store is well';
my @attention = @{$seen->{attention} || []};
my ($fails) = grep {m{/fails}} @attention;
like $fails, qr/failing for \d+ s in (?:24 h|23 h 59 min)/, 'a webhook that fails, '
    . 'and when Asana deletes it';
like $fails, qr/ 500 /, 'with what Asana got';
ok grep({m{/waits.*pending}} @attention), 'a pending one';
ok grep({/UNKNOWN.*no secret is held for its key.*127\.0\.0\.1/}
        @{$seen->{events} || []}), 'the latest refusal, and why';
ok grep({/REFUSED a browser sends it from another site/}
        @{$seen->{events} || []}), 'one without a key';
is $seen->{first}, 50, 'a page of webhooks';
is $seen->{all}, 1_005, 'all of them';
is scalar @{$seen->{html} || []}, 2, 'keys full of HTML, and of other bytes';
ok grep({/<script>window\.ran=1/} @{$seen->{html} || []}), 'are text';
ok grep({/\\u202e/} @{$seen->{html} || []}), 'what turns text is seen';
ok $seen->{ran}, 'and run nothing';
is $seen->{found}, 11, 'a part of a key finds';
is scalar @{$seen->{before} || []}, 1, 'one to be revoked';
like $seen->{question}, qr{a/to-be-revoked}, 'it asks';
is scalar @{$seen->{kept} || []}, 1, 'no keeps it';
is_deeply $seen->{after}, ['none found'], 'yes revokes it';
like $seen->{refused}, qr/visible/, 'what the API refuses is told';
like $seen->{other}, qr/ not that one/, 'a secret that is not the pending one';
is $seen->{buttons}, 0, 'no button where it is read only';
is $seen->{dark}, 'rgb(20, 23, 29)', 'dark';
cmp_ok $seen->{wide}, '<=', 0, 'narrow';
like "@{$seen->{names} || []}", qr/\Anone health: .* none\z/, 'with a name before each '
    . 'cell but the key';
is $t->call('GET', '/api/hooks?key=a/to-be-revoked')->{status}, 404,
    'it is gone';

$t->end;
done_testing;
