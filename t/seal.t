# Tests for encryption at rest: what is sealed opens with its key in its place
# alone, and key files that are no good are refused.

use strict;
use warnings;

use lib 't/lib';

use Digest::SHA qw(sha256_hex);
use Test::More;

use Postgres;
use Receiver qw(wait_for);

Postgres->usable;

my $pg     = Postgres->new(stopped => 1);
my $d      = $pg->driver(name => 'one');
my $secret = 'a-secret-of-printable-text-0123456789';

sub text { my ($name, $text) = @_;
    open my $f, '>', "$pg->{dir}/$name" or die "$name: $!\n";
    print {$f} $text;
    close $f or die "$name: $!\n";
    chmod 0600, "$pg->{dir}/$name";
    return "$pg->{dir}/$name";
}

my $sealed = $d->ask("seal /k 0 $secret");
my $id     = substr sha256_hex("\1" x 32), 0, 8;
like $sealed, qr/^01$id/, 'the version, and the id of the key';
is length($sealed) / 2, 33 + length $secret, 'and nothing in vain';
unlike pack('H*', $sealed), qr/$secret/, 'it is encrypted';
is $d->ask("unseal /k 0 $sealed"), $secret, 'and decrypted';

for my $len (1, 255) {
    my $text = 'x' x $len;
    is $d->ask('unseal /k 1 ' . $d->ask("seal /k 1 $text")), $text,
        "$len bytes";
}

my %nonces = map { substr($d->ask("seal /k 0 $secret"), 10, 24) => 1 } 1 .. 500;
is scalar keys %nonces, 500, 'each has a nonce of its own';

# every bit, every length

my @tags;
for my $bit (0 .. 4 * length($sealed) - 1) {
    my $bytes = pack 'H*', $sealed;
    vec($bytes, $bit, 1) ^= 1;
    push @tags, $d->send('unseal /k 0 ' . unpack 'H*', $bytes);
}
my %answers;
$answers{$d->wait($_)}++ for @tags;
is_deeply \%answers, {UNKNOWN => 32, BAD => 4 * length($sealed) - 32},
    'a bit flipped';

%answers = ();
$answers{$d->ask('unseal /k 0 ' . substr $sealed, 0, 2 * $_)}++
    for 0 .. length($sealed) / 2 - 1;
is_deeply [sort keys %answers], ['BAD'], 'cut';
is $d->ask("unseal /k 0 ${sealed}00"), 'BAD', 'longer';

is $d->ask("unseal /k2 0 $sealed"), 'BAD', 'of another key';
is $d->ask("unseal /k 1 $sealed"), 'BAD', 'in another state';
is $d->ask("unseal xk 0 $sealed"), 'BAD', 'of another secret';
is $pg->driver(name => 'zone', zone => 'hook')->ask("unseal s/k 0 $sealed"),
    'BAD', 'of another zone';

# rotation

my $other = $pg->driver(name => 'other', key => $pg->key_file('k2', 2));
is $other->ask("unseal /k 0 $sealed"), 'UNKNOWN', 'without its key';
my $both = $pg->driver(name => 'both', key => $pg->key_file('k3', 2, 3, 1));
is $both->ask("unseal /k 0 $sealed"), $secret, 'the last of three keys';
is $other->ask('unseal /k 0 ' . $both->ask("seal /k 0 $secret")), $secret,
    'the first one encrypts';

# key files

my $hex = '0123456789abcdefABCDEF0123456789' x 2;

my @bad = (
    ['empty', '', qr/not usable at line 0/],
    ['short', substr($hex, 1) . "\n", qr/not usable at line 1/],
    ['long', "$hex\n${hex}0\n", qr/not usable at line 2/],
    ['no hex', "$hex\n\n" . ('g' x 64) . "\n", qr/not usable at line 3/],
    ['large', "$hex\n" x 2000, qr/too large/]
);
for (@bad) {
    my ($what, $text, $like) = @$_;
    my $bad = $pg->driver(name => "bad $what", key => text('bad', $text));
    waitpid delete $bad->{pid}, 0;
    like $bad->log, $like, "a key file that is no good: $what";
    unlike $bad->log, qr/0123456789abcdef/, 'and no key is shown';
}

my $open = text('open', "$hex\n");
chmod 0640, $open;
for ([open => $open, qr/chmod 600/], [none => '/nonexistent', qr/cannot be opened/],
    [directory => $pg->{dir}, qr/regular file/])
{
    my ($what, $file, $like) = @$_;
    my $bad = $pg->driver(name => $what, key => $file);
    waitpid delete $bad->{pid}, 0;
    like $bad->log, $like, "a key file that is no good: $what";
}

my $good = $pg->driver(name => 'good', key => text('good', "\n$hex"));
like $good->ask("seal /k 0 $secret"), qr/^01/, 'without the last line feed';

$pg->end;
done_testing;
