# Tests for the value of a key in the store: what is written, what is read, and
# that anything else is refused.

use strict;
use warnings;

use lib 't/lib';

use Config;
use Digest::SHA qw(sha256_hex);
use Test::More;

use Units;

my $units    = Units->new('policy', 'health');
my $max_time = 253_402_300_799;

# with 32 bits the last time stands for those after it
my $last = $Config{ptrsize} > 4 ? $max_time : 0x7fff_ffff;

# a reading of the layout of its own: the secrets as text, or nothing

sub parse {
    my ($value) = @_;
    my ($version, %ids, @secrets) = unpack 'C', $value;
    return if !defined $version || $version != 2;

    for (my $at = 1; $at < length $value; ) {
        return if length($value) - $at < 54;
        my ($id, $serial, @rest) = unpack "x${at}H16Q>Q>4nCCn", $value;
        my ($flags, $gid, $len) = splice @rest, 5, 3;
        return if $ids{$id}++ || keys %ids > 2000;
        return if grep { $_ > $max_time } @rest[0 .. 3];
        @rest[0 .. 3] = map { $_ > $last ? $last : $_ } @rest[0 .. 3];
        return if $flags & 0xfe || $gid > 32 || $len < 16 || $len > 255;
        return if length($value) - $at < 54 + $gid + $len;
        push @secrets, join ':', $id, $serial, @rest, $flags,
            map { s/([^!-~])/sprintf '%%%02x', ord $1/ger }
            unpack '@' . ($at + 54) . "a${gid}a$len", $value;
        $at += 54 + $gid + $len;
    }

    return join ' ', 'OK', @secrets;
}

sub value {
    return pack 'CA*', 2, join '', map {
        my @s = split /:/;
        pack 'H16Q>Q>4nCCnA*', @s[0 .. 7], length $s[8], length $s[9],
            "$s[8]$s[9]";
    } @_;
}

sub compare {
    my ($name, @values) = @_;
    my @got = $units->run(map { 'decode ' . unpack 'H*', $_ } @values);
    my @want = map { parse($_) || 'DECLINED' } @values;
    my @wrong = grep { $got[$_] ne $want[$_] } 0 .. $#values;
    my $refused = grep { $_ eq 'DECLINED' } @want;
    is @wrong, 0, "$name: of " . @values . ", $refused refused";
    splice @wrong, 3 if @wrong > 3;
    diag unpack('H*', $values[$_]), "\n got $got[$_]\nwant $want[$_]"
        for @wrong;
    return $refused;
}

# there and back

my $big = '18446744073709551615';
my @known = (
    '07c5cc6f45dc4ff0:1:1700000000:0:0:0:0:0::0123456789abcdef',
    "0000000000000001:$big:$last:$last:$last:$last:65535:1:"
        . '9' x 32 . ':' . '~' x 255,
    'ffffffffffffffff:0:0:0:0:0:200:0:1:' . '!' x 17,
);

for my $known ([], [$known[0]], \@known, [reverse @known]) {
    my ($hex) = $units->run("encode @$known");
    is $hex, unpack('H*', value(@$known)), 'written';
    is +($units->run("decode $hex"))[0], join(' ', 'OK', @$known), 'and read';
}

my $text = '0123456789abcdef';
my $id = substr sha256_hex($text), 0, 16;
my ($example) = do {
    open my $file, '<', 'src/store/ngx_asana_lmdb_value.c' or die $!;
    local $/;
    <$file> =~ /^ \*     (02  [0-9a-f].*?)\n \*\//ms;
};
$example =~ s/"(.*)"/unpack 'H*', $1/e;
$example =~ s/[\s*]//g;
is $example, unpack('H*', value("$id:1:1700000000:0:0:0:0:1::$text")),
    'the example in the source';

# any other length, and each byte any other one

my $small = value(@known[2, 0], 'a0' x 8 . ':7:8:9:10:11:12:1:34:' . 'a' x 16);
my @cut = map { substr $small, 0, $_ } 0 .. length($small) - 1;
is compare('cut', @cut), @cut - 3, 'but where a secret ends';
is compare('longer', map { $small . "\0" x $_ } 1 .. 80), 80, 'none is longer';

compare('a byte', map {
    my $at = $_;
    map { my $v = $small; substr($v, $at, 1) = chr $_; $v } 0 .. 255
} 0 .. length($small) - 1);

# random values that begin like one

srand 1;
compare('random', map { pack 'C*', 2, map { int rand 256 } 1 .. rand 400 }
        1 .. 2000);
compare('mixed', map {
    my $v = $small;
    substr($v, rand length $v, 1) = chr rand 256 for 1 .. 3;
    $v . substr $v, 1 + rand length $v;
} 1 .. 5000);

# the bounds

my $s = '0123456789abcdef:1:2:3:4:5:6:1:7:' . 's' x 20;

sub bound {
    my ($field, $good, $bad) = @_;
    my @values = map {
        my @s = split /:/, $s;
        $s[$field] = $_;
        value(join ':', @s);
    } $good, $bad;
    my @is = map { parse($_) ? 1 : 0 } @values;
    compare("field $field", @values);
    is "@is", '1 0', "field $field: its bound";
    return;
}

bound($_, $max_time, $max_time + 1) for 2 .. 5;
bound(7, 1,        2);
bound(8, '9' x 32, '9' x 33);
bound(9, 's' x 16, 's' x 15);
bound(9, 's' x 255, 's' x 256);
is compare('an id twice', value($s, $s)), 1, 'is refused';

my @many = map { my $v = $s; $v =~ s/^\w+/sprintf '%016x', $_/e; $v } 1 .. 2001;
is compare('as many as there may be', value(@many[1 .. 2000])), 0, 'are read';
is compare('one more', value(@many)), 1, 'is refused';

# the text of a secret

my %texts = (
    'x' x 15 => 0, 'x' x 16 => 1, 'x' x 255 => 1, 'x' x 256 => 0,
    map { ('x' x 20 . chr($_) => ($_ > 32 && $_ < 127 ? 1 : 0)) }
        1 .. 9, 11 .. 255
);
my @texts = sort keys %texts;
is join('', $units->run(map {"check $_"} @texts)), join('', @texts{@texts}),
    'texts of secrets';

done_testing;
