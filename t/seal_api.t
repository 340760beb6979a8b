# Tests for "encryption_key" with a state directory, within nginx: nothing in
# clear in the store, restarts, keys that are missing, rotation by the API.

use strict;
use warnings;

use lib 't/lib';

use Digest::SHA qw(sha256_hex);
use JSON::PP qw(decode_json);
use Test::More;

use Receiver qw(wait_for);

sub secret { return sprintf 'sealed-secret-%06d', @_ }
sub key_id { my ($key) = @_; return substr sha256_hex(chr($key) x 32), 0, 8 }

my $t = Receiver->new(server =>
        "location /api { asana_hook_api hooks write=on; }\n"
        . 'location /read { asana_hook_api hooks; }');

sub keys_are {
    my (@keys) = @_;
    $t->write_file('key', join '', map { unpack('H2', chr) x 32 . "\n" } @keys);
    chmod 0600, "$t->{dir}/key";
    $t->{zone} = "encryption_key=$t->{dir}/key";
    return $t->conf;
}

sub reseal { return $t->call('POST', '/api/reseal', [@_]) }
sub info { return decode_json($t->call('GET', '/api/')->{body}) }

sub metric {
    return join ' ', $t->call('GET', '/api/metrics')->{body}
        =~ /^asana_hook_store_secrets\{zone="hooks",(.*)\n/mg;
}

sub clear_text { return scalar(() = $t->slurp('state/data.mdb') =~ /sealed-secret/g) }

my ($i1, $i2) = map { key_id($_) } 1, 2;

# in clear

$t->app->run;
is $t->handshake("/$_", secret($_))->{status}, 200, "handshake $_" for 1 .. 3;
is $t->deliver('/1', secret(1), '{}')->{status}, 200, 'a delivery';
cmp_ok clear_text(), '>', 0, 'without a key it is in clear';
is metric(), '', 'no metric of keys';
ok !exists info()->{store}{keys_used}, 'none in GET /';
my $r = reseal();
is $r->{status}, 409, 'there is nothing to seal anew';
like $r->{body}, qr/has no encryption_key/, 'told';

# encrypted by the first change

ok $t->reload(keys_are(1)), 'a key is given';
is $t->deliver('/2', secret(2), '{}')->{status}, 200, 'a delivery';
$r = reseal();
is "$r->{status} $r->{body}", qq(200 {"resealed":0,"left":0}\n), 'a change';
like $t->slurp('error.log'), qr/was in clear and is encrypted now/, 'warned';
is metric(), qq(key_id="$i1"} 3), 'counted';
is_deeply info()->{store}{keys_used},
    [{id => $i1, secrets => 3, first => JSON::PP::true()}], 'by GET /';
is $t->deliver("/$_", secret($_), '{}')->{status}, 200, "a delivery $_"
    for 1 .. 3;
is $t->deliver('/1', secret(9), '{}')->{status}, 403, 'a forged one';
is $t->handshake('/new', secret(4))->{status}, 200, 'a new one';
$t->stop;
my $copy = "$t->{dir}/copy";
mkdir $copy;
is system('mdb_copy', '-c', "$t->{dir}/state", $copy), 0, 'copied';
is scalar(() = $t->slurp('copy/data.mdb') =~ /sealed-secret/g), 0,
    'nothing in clear in a store made anew';
$t->start;
is $t->deliver('/new', secret(4), '{}')->{status}, 200, 'after a restart';

# keys that are missing

$t->stop;
$t->run(keys_are(2));
is $t->deliver('/1', secret(1), '{}')->{status}, 503, 'another key: not known';
is $t->handshake('/1', secret(5))->{status}, 503, 'nor replaced';
is $t->handshake('/other', secret(6))->{status}, 200, 'another URL';
like $t->slurp('error.log'),
    qr/\[crit\].*key "localhost\/1" is encrypted by key $i1, which/, 'crit: named';
is metric(), qq(key_id="$i2"} 1 key_id="$i1"} 4), 'counted';
$r = reseal();
is $r->{body}, qq({"resealed":0,"left":4}\n), 'and left alone';
$t->stop;
$t->{zone} = '';
$t->run;
is $t->deliver('/1', secret(1), '{}')->{status}, 503, 'no key: not known';
is $t->handshake('/1', secret(5))->{status}, 503, 'nor written';
like $t->slurp('error.log'), qr/\[crit\].*it is encrypted; give the zone its "enc/,
    'crit: told';
$t->stop;

# rotation

$t->run(keys_are(2, 1));
is $t->deliver('/1', secret(1), '{}')->{status}, 200, 'both keys';
my @puts = map {
    "PUT /api/hooks?key=k$_ HTTP/1.1\r\nHost: x\r\nX-Hook-Secret: "
        . secret($_) . "\r\n\r\n"
} 1 .. 1500;
ok $t->reload(keys_are(1, 2)), 'the old one first';
is scalar(grep { $_->{status} == 201 } $t->many(@puts)), 1500, '1,500 keys';
ok $t->reload(keys_are(2, 1)), 'the new one first';
is metric(), qq(key_id="$i2"} 1 key_id="$i1"} 1504), 'counted';
for my $case (
    ['GET', 405], ['PUT', 405], ['DELETE', 405], ['OPTIONS', 204])
{
    my ($method, $status) = @$case;
    $r = $t->call($method, '/api/reseal');
    is $r->{status}, $status, $method;
    like $r->{head}, qr/^Allow: OPTIONS, POST\r$/m, 'Allow';
}
$r = $t->call('POST', '/read/reseal');
is $r->{status}, 405, 'without write=on';
like $r->{head}, qr/^Allow: OPTIONS\r$/m, 'Allow';
is reseal('Origin: http://elsewhere')->{status}, 403, 'from another site';
is reseal('Sec-Fetch-Site: cross-site')->{status}, 403, 'the same';
is $t->call('POST', '/api/reseal?limit=1')->{status}, 400, 'an argument';
is $t->call('POST', '/api/reseal', [], 'body')->{status}, 400, 'a body';
is metric(), qq(key_id="$i2"} 1 key_id="$i1"} 1504), 'nothing has changed';
is join('', map { reseal()->{body} } 1 .. 3), <<'END', 'sealed anew';
{"resealed":1000,"left":504}
{"resealed":504,"left":0}
{"resealed":0,"left":0}
END
is metric(), qq(key_id="$i2"} 1505 key_id="$i1"} 0), 'counted';
$t->stop;
$t->run(keys_are(2));
is $t->deliver("/$_", secret($_), '{}')->{status}, 200, 'without the old one'
    for 1 .. 3;
is metric(), qq(key_id="$i2"} 1505), 'there is one key';

# one secret of a key that cannot be read makes all of them unknowable

ok $t->reload(keys_are(3, 2)), 'a third key';
is $t->call('PUT', '/api/hooks?key=localhost/1',
    ['X-Hook-Secret: ' . secret(7)])->{status}, 201, 'a secret beside another';
is $t->deliver('/1', secret($_), '{}')->{status}, 200, "secret $_" for 1, 7;
$t->stop;
$t->run(keys_are(3));
is $t->deliver('/1', secret(7), '{}')->{status}, 503, 'a delivery by the new one';
is $t->handshake('/1', secret(7))->{status}, 503, 'its handshake once more';
$t->secrecy('sealed-secret', unpack('H2', "\3") x 32, unpack('H2', "\1") x 32, unpack('H2', "\2") x 32);
$t->end;
done_testing;
