# Tests for a store that holds what the module never writes: keys, secrets and
# indexes that somebody loaded into it.

use strict;
use warnings;

use lib 't/lib';

use Digest::SHA qw(sha256);
use Test::More;

use Receiver qw(wait_for);
use Stored qw(load record value);

my $secret = 'a-secret-of-printable-text-0123456789';
my $t      = Receiver->new(
    location => 'asana_hook_heartbeat answer;',
    server   => 'location /api { asana_hook_api hooks write=on; }
        location /confirm {
            asana_hook hooks; asana_hook_enroll confirm;
            proxy_pass http://127.0.0.1:APP;
        }
        location = /create {
            asana_hook_gateway hooks; proxy_pass http://127.0.0.1:APP;
        }'
)->app;
$t->{server} =~ s/APP/$t->{app_port}/g;
$t->run;
my $state   = "$t->{dir}/state";
my @workers = $t->workers;
my $fresh   = 0;

my $read = 0;

sub news {
    my $text = substr $t->slurp('error.log'), $read;
    $read += length $text;
    return $text;
}

# keys of all others are served as before, by the same worker

sub others {
    my ($what) = @_;
    my $key = '/beside/' . ++$fresh;
    is $t->handshake($key, "$secret$key")->{status}, 200,
        "$what: a handshake of another key";
    is $t->deliver($key, "$secret$key", 'x')->{status}, 200, 'verifies';
    is $t->deliver('/known', "$secret/known", $what)->{status}, 200,
        'the first secret as well';
    is $t->call('DELETE', "/api/hooks?key=localhost$key")->{status}, 204,
        'and another is revoked';
    is join(' ', $t->workers), join(' ', @workers), 'the worker lives';
    return;
}

is $t->handshake('/known', "$secret/known")->{status}, 200, 'a first secret';
is $t->deliver('/known', "$secret/known", 'x')->{status}, 200, 'verifies';

# keys that are longer than any key of a request

for my $length (481, 495, 511) {
    my $key = 'a' x $length;
    is load($t->{dir}, 'hooks', $key, value(record($secret))), 0,
        "a key of $length bytes";
    news();
    my $r = $t->call('GET', '/api/hooks');
    is $r->{status}, 200, 'a listing';
    like $r->{body}, qr{"localhost/known"}, 'has the others';
    unlike $r->{body}, qr/a{481}/, 'but not that one';
    ok wait_for(sub {
        $t->call('GET', '/api/hooks');
        news() =~ /\[crit\].*store\ "\Q$state\E".*the\ key\ "a{480}"
            \ is\ damaged.*backup/x;
    }), 'the log says it';
    $t->call($_, "/api/hooks?key=$key", ["X-Hook-Secret: $secret"])
        for qw(GET PUT DELETE);
    $t->call('GET', "/api/hooks?after=$key");
    is $t->call('GET', '/api/hooks?limit=1')->{status}, 200, 'a page of one';
    others("a key of $length bytes");
}

# keys of bytes that no name has

for my $key ("\0", "line\nfeed", "\177", "\xff\xfe", "a\x{1b}[2J") {
    is load($t->{dir}, 'hooks', $key, value(record($secret))), 0, 'an odd key';
    my $r = $t->call('GET', '/api/hooks');
    is $r->{status}, 200, 'a listing';
    like $r->{body}, qr{"localhost/known"}, 'has the others';
    unlike $r->{body}, qr/[\x00-\x1f\x7f](?!\z)/, 'and nothing raw';
    others('an odd key');
}

# secrets that no handshake brings

for my $length (1, 15) {
    my $key = "localhost/short/$length";
    is load($t->{dir}, 'hooks', $key, value(record('s' x $length))), 0,
        "a secret of $length bytes";
    ok wait_for(sub {
        is $t->deliver("/short/$length", 's' x $length, 'x')->{status}, 503,
            'verifies nothing';
        like $t->deliver("/short/$length", 's' x $length, 'x')->{head},
            qr/^Retry-After: \d+\r$/m, 'and is to be sent again';
        return news() =~ /\[crit\].*is damaged.*backup/;
    }), 'the log says it';
    others("a secret of $length bytes");
}

# a record without its index, and indexes without their records

is load($t->{dir}, 'hooks', 'localhost/bare', value(record("$secret/bare"))), 0,
    'a secret that is in no index';
is $t->deliver('/bare', "$secret/bare", 'x')->{status}, 200, 'verifies';
others('a secret in no index');
is $t->call('DELETE', '/api/hooks?key=localhost/bare')->{status}, 204,
    'is revoked';
is load($t->{dir}, 'hooks', 'localhost/confirm/bare',
    value(record("$secret/bare", pending => 1))), 0, 'a pending one';
is $t->call('PUT', '/api/hooks?key=localhost/confirm/bare',
    ["X-Hook-Secret: $secret/bare"])->{status}, 200, 'is confirmed';
is $t->deliver('/confirm/bare', "$secret/bare", 'x')->{status}, 200,
    'verifies';

my $id = substr sha256("$secret/gone"), 0, 8;
for my $database (qw(pending_by_age unproven_by_age proven_by_age)) {
    is load($t->{dir}, $database, pack('Q>', 1), $id . 'localhost/gone'), 0,
        "an entry of \"$database\" without a record";
    others("a stale entry of \"$database\"");
}
my $pending = "$secret/pending";
$id = substr sha256($pending), 0, 8;
is load($t->{dir}, 'secrets_by_id', $id . 'localhost/gone', ''), 0,
    'an entry of "secrets_by_id" without a record';
is load($t->{dir}, 'secrets_by_id', $id . 'localhost/' . 'l' x 490,
    ''), 0,
    'one of a key that is too long';
is $t->handshake('/confirm/real', $pending)->{status}, 200, 'a pending secret';
$t->answer(201, '', qq({"X-Hook-Secret":"$pending"}));
my $r = $t->call('POST', '/create', [], 'x');
is $r->{status}, 201, 'a create call';
$t->answer(200, '', 'app');
is $t->deliver('/confirm/real', $pending, 'x')->{status}, 200,
    'confirms the one that is there';
others('a long key of "secrets_by_id"');

is join(' ', $t->workers), join(' ', @workers), 'the worker lived throughout';
$t->secrecy($secret);
$t->end;

done_testing;
