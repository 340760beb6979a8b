# Tests for a store in LMDB that is encrypted, outside nginx: what lies in its
# files, keys that are missing, values that were changed, rotation, and the
# conversion of a store in clear.

use strict;
use warnings;

use lib 't/lib';

use Digest::SHA qw(sha256_hex);
use Test::More;
use Time::HiRes qw(usleep);

use Lmdb qw($dir $in $out $pid batch checked end fresh id opened say_to secret
    slurp start);
use Stored qw(pairs records);

my $now = 1_700_000_000;
my @args = (1 << 20, 86400, 300, 1000);

sub keys_of {
    my (@keys) = @_;
    my $file = "$dir/keys-" . join '-', @keys;
    open my $f, '>', $file or die "$file: $!\n";
    print {$f} map { unpack('H2', chr) x 32, "\n" } @keys;
    close $f or die "$file: $!\n";
    chmod 0600, $file;
    return $file;
}

sub key_id { my ($key) = @_; return substr sha256_hex(chr($key) x 32), 0, 8 }

sub clear_text {
    my ($state) = @_;
    return scalar(() = slurp("$state/data.mdb") =~ /a-secret-of-some-length/g);
}

# writes pairs as if somebody had

sub load {
    my ($state, $database, @pairs) = @_;
    open my $fh, '|-', "mdb_load -s $database $state" or die $!;
    print {$fh} join "\n", 'VERSION=3', 'format=bytevalue',
        "database=$database", 'type=btree', 'HEADER=END',
        map({ ' ' . unpack 'H*', $_ } @pairs), "DATA=END\n";
    close $fh or die "mdb_load: $?";
    return;
}

sub value_of {
    my ($state, $key) = @_;
    my ($pair) = grep { $_->[0] eq $key } pairs($state, 'hooks');
    return $pair->[1];
}

sub log_text { return slurp("$dir/log") }

my ($k1, $k2, $both) = (keys_of(1), keys_of(2), keys_of(2, 1));
my ($i1, $i2) = map { key_id($_) } 1, 2;
my ($s1, $s2, $s3) = map { secret($_) } 1 .. 3;

# written, read, opened again

start();
my $state = fresh();
is opened($state, @args, $k1), 'open', 'an encrypted one';
is join(' ', batch("handshake a first $s1", "handshake b confirm $s2",
    "put b $s3", "put gone $s1")), 'added added added added', 'secrets';
is say_to("confirm $s2 4711"), 'changed', 'one is confirmed';
is say_to('note a ' . id($s1) . " $now"), 'changed', 'a time';
is say_to('revoke gone *'), 'changed', 'one is revoked';
like say_to('find b'), qr/^found $s2:\d+:0:confirmed:4711 $s3:/, 'read';
is say_to('used'), "used $i1=3", 'counted by the key';
checked('an encrypted store');
is clear_text($state), 0, 'nothing in clear in the file';
is join(' ', map { unpack 'H*', $_->[1] } grep { $_->[0] eq 'version' }
    pairs($state, 'meta')), '00000003', 'format 3';
my $value = value_of($state, 'a');
is unpack('H2 x52 n', $value), '03', 'a value of version 3';
my $sealed = records($state)->{a}[0]{secret};
is length $sealed, 33 + length $s1, 'what is sealed';
is unpack('H10', $sealed), "01$i1", 'by the key';
is opened($state, @args, $k1), 'open', 'opened again';
like say_to('find a'), qr/^found $s1:$now:$now:confirmed:$/, 'read again';
is say_to('note a ' . id($s1) . ' ' . ($now + 1)), 'held', 'a time ahead';
say_to('now ' . ($now + 9));
is say_to('note a ' . id($s1) . ' ' . ($now + 1)), 'changed', 'a later time';
say_to('close');
is records($state)->{a}[0]{secret}, $sealed, 'is no reason to seal anew';

# without its key

my $before = sha256_hex(slurp("$state/data.mdb"));
is opened($state, @args), 'not open', 'without "encryption_key"';
is say_to('find a'), 'not known', 'nothing is known';
is say_to("handshake a first $s1"), 'failed', 'nor written';
like log_text(), qr/\[3\] .*it is encrypted; give the zone its "encryption_key"/,
    'crit: the log says why';
say_to('close');
is sha256_hex(slurp("$state/data.mdb")), $before, 'it is left as it is';
is opened($state, @args, $k2), 'open', 'with another key';
is say_to('find a'), 'not known', 'what is sealed is not known';
is say_to("handshake a open $s2"), 'failed', 'nor changed';
like log_text(), qr/\[3\] .*a secret of key "a" is encrypted by key $i1, which "enc/,
    'crit: the key is named';
is say_to('list'), 'list', 'nor listed';
is say_to("put c $s1"), 'added', 'another key of the zone is no matter of it';
is say_to('used'), "used $i2=1 $i1=3", 'counted';
is say_to('revoke b ' . id($s2)), 'changed', 'one can be revoked';
is say_to('reseal'), 'held 0 left 2', 'none can be sealed anew';
checked('secrets of two keys');
is opened($state, @args, $both), 'open', 'with both keys';
like say_to('find b'), qr/^found $s3:\S+$/, 'the other one is still there';
like say_to('find c'), qr/^found $s1:/, 'and the new one';
is say_to('reseal'), 'changed 2 left 0', 'sealed anew';
is say_to('used'), "used $i2=3 $i1=0", 'by the first key';
is say_to('reseal'), 'held 0 left 0', 'again';
checked('sealed anew');
is opened($state, @args, $k2), 'open', 'without the old key';
like say_to('find b'), qr/^found $s3:/, 'all is known';
say_to('close');
end();

# changed, moved, made confirmed, in clear

start();
$state = fresh();
opened($state, @args, $k1);
batch("put a $s1", "put b $s2", "handshake p confirm $s3", "put e $s3");
say_to('close');
my %values = map { $_ => value_of($state, $_) } qw(a b p);
my ($confirmed, %wrong) = ($values{p});
substr $confirmed, 1 + 50, 1, "\0";
my $swapped = $values{a};
substr $swapped, -length($sealed), length $sealed, substr $values{b},
    -length $sealed;
my $clear = "\2" . substr($values{a}, 1, 52) . pack('n', length $s1) . $s1;
my @cases = (
    ['moved to another key', 'b', $values{a}, 'changed'],
    ['a secret moved', 'a', $swapped, 'changed'],
    ['made confirmed', 'p', $confirmed, 'changed'],
    ['in clear', 'a', $clear, 'damaged'],
    map {
        my $v = $values{a};
        vec($v, 8 * (length($v) - $_) + 1, 1) ^= 1;
        ["a bit of byte -$_", 'a', $v, 'changed'];
    } 1, 17, 30, length($s1) + 28
);
my $t = $now;
for (@cases) {
    my ($what, $key, $v, $log) = @$_;
    load($state, 'hooks', $key, $v);
    $t += 10;
    say_to("now $t");
    my $lines = () = log_text() =~ /\n/g;
    opened($state, @args, $k1);
    is say_to("find $key"), 'not known', "$what: not known";
    like +(split /\n/, log_text())[$lines],
        $log eq 'changed'
        ? qr/\[3\] .*a secret of key "$key" was changed in the store by somebody/
        : qr/\[3\] .*key "$key" is damaged and not used/, 'crit: told';
    is say_to("handshake $key open $s3"), 'failed', 'nor changed';
    is say_to("confirm $s3 1"), 'failed', 'nor confirmed' if $key eq 'p';
    like say_to('find e'), qr/^found $s3/, 'the others are known';
    say_to('close');
    load($state, 'hooks', $key, $values{$key});
}
opened($state, @args, $k1);
load($state, 'hooks', 'b', $values{a});
is say_to('revoke b *'), 'changed', 'what was changed can be revoked';
is say_to("put b $s2"), 'added', 'and put again';
is say_to('find b') =~ /$s2/, 1, 'it is known';
say_to('close');
end();

# rotation

start();
$state = fresh();
opened($state, 16 << 20, 86400, 300, 1000, $k1);
for my $part (0 .. 9) {
    batch(map { "put k/$part/" . int($_ / 2) . ' ' . secret("$part-$_") }
            1 .. 250);
}
say_to('close');
opened($state, 16 << 20, 86400, 300, 1000, $both);
is say_to("put many " . secret("m-$_")), 'added', 'one more' for 1 .. 2;
is say_to('used'), "used $i2=2 $i1=2500", '2,500 secrets of the old key';
is join(' ', map { say_to('reseal') } 1 .. 4), 'changed 1000 left 1500 '
    . 'changed 1000 left 500 changed 500 left 0 held 0 left 0',
    'sealed anew, 1,000 at once';
is say_to('used'), "used $i2=2502 $i1=0", 'all of them';
checked('after the rotation');
opened($state, 16 << 20, 86400, 300, 1000, $k2);
my @lost = grep { my ($part, $n) = @$_;
    say_to("find k/$part/" . int $n / 2) !~ /\Q@{[secret("$part-$n")]}:/ }
    map { my $part = $_; map { [$part, $_] } 1 .. 250 } 0 .. 9;
is @lost, 0, 'and each is there without the old key';
say_to('close');

# by another tool, without the counts

my $made = fresh();
for my $database (qw(meta hooks unproven_by_age proven_by_age pending_by_age
    secrets_by_id))
{
    load($made, $database, map {@$_} grep { $_->[0] ne 'keys_used' }
            pairs($state, $database));
}
opened($made, 16 << 20, 86400, 300, 1000, $both);
like say_to('find many'), qr/^found/, 'a store without counts';
is say_to('revoke nothing *'), 'absent', 'is counted by the first change';
is say_to('used'), "used $i2=2502 $i1=0", 'as a whole';
checked('a store without counts');
end();

# a store in clear

sub all_of { return join "\n", say_to('list'), map { say_to("find $_") } @_ }

start();
$state = fresh();
opened($state, @args);
batch("put a $s1", "handshake b confirm $s2", "put c $s1");
batch("put full/$_ " . secret($_) . 'x' x 200) for 1 .. 50;
for my $part (1 .. 100) {
    last if grep { $_ eq 'full' }
        batch(map { "put full/$part/$_ " . secret($_) . 'x' x 200 } 1 .. 50);
}
say_to('close');
load($state, 'hooks', 'd', '02ffff');
opened($state, @args);
my $was = all_of(qw(a b c d full/1 full/50));
my ($count) = say_to('stat') =~ /(secrets \d+)/;
say_to('close');
cmp_ok clear_text($state), '>', 1000, 'a full store in clear';
opened($state, @args, $k1);
is all_of(qw(a b c d full/1 full/50)), $was, 'is read with a key as well';
is say_to('used'), 'used', 'nothing is counted';
is say_to('revoke nothing *'), 'absent', 'the first change encrypts it';
like log_text(), qr/\[5\] .*was in clear and is encrypted now/, 'warn: told';
is all_of(qw(a b c d full/1 full/50)), $was, 'it holds the same';
like say_to('stat'), qr/$count /, 'and as many';
is say_to("revoke a *"), 'changed', 'and can be changed';
say_to('close');
is scalar(grep { ord $_->[1] != 3 && $_->[0] ne 'd' } pairs($state, 'hooks')),
    0, 'all values are sealed';
mkdir "$state-copy" or die $!;
is system('mdb_copy', '-c', $state, "$state-copy"), 0, 'made anew';
is clear_text("$state-copy"), 0, 'it has nothing in clear';
say_to('now ' . ($now + 99));
is opened($state, @args), 'not open', 'there is no way back';
say_to('close');

# format 1

my $old = fresh();
open my $fh, '|-', "mdb_load $old" or die $!;
print {$fh} slurp('t/data/format-1.dump');
close $fh or die $!;
say_to('now 1795772440');
opened($old, 1 << 20, 604800, 3600, 4, $k1);
my @keys = map {"localhost/$_"} qw(both open pending verified long first);
$was = all_of(@keys);
is say_to('revoke nothing *'), 'absent', 'format 1: the first change';
is all_of(@keys), $was, 'it holds the same';
is say_to('used'), "used $i1=10", 'encrypted';
checked('format 1');
end();

# killed while it is converted: all of it, or nothing

my $store = fresh();
start();
opened($store, 64 << 20, 86400, 300, 1000);
batch(map { "put c/" . ($_ >> 1) . ' ' . secret($_) } 1 .. 250) for 1;
for my $part (1 .. 40) {
    batch(map { "put c/$part/" . ($_ >> 1) . ' ' . secret("$part-$_") }
            1 .. 250);
}
$was = all_of(map {"c/$_/7"} 1 .. 40);
say_to('close');
end();
my %ended;
for my $round (1 .. 30) {
    my $copy = "$dir/killed";
    system "rm -rf $copy && cp -r $store $copy";
    start();
    opened($copy, 64 << 20, 86400, 300, 1000, $k1);
    print {$in} "revoke nothing *\n";
    $in->flush;
    usleep 2000 * $round**2;
    kill 'KILL', $pid;
    waitpid $pid, 0;
    my ($format) = map { unpack 'N', $_->[1] }
        grep { $_->[0] eq 'version' } pairs($copy, 'meta');
    my %versions = map { ord $_->[1] => 1 } pairs($copy, 'hooks');
    $ended{"$format " . join '+', keys %versions}++;
    start();
    opened($copy, 64 << 20, 86400, 300, 1000, $k1);
    say_to('revoke nothing *');
    my $is = all_of(map {"c/$_/7"} 1 .. 40);
    $ended{lost}++ if $is ne $was;
    say_to('close');
    $ended{damaged}++ if say_to('check') !~ /^pending/;
    close $in;
    waitpid $pid, 0;
    last if keys %ended > 1 && $round > 5;
}
is_deeply [sort keys %ended], ['2 2', '3 3'], 'killed: the old or the new store'
    or diag explain \%ended;

done_testing;
