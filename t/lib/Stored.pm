package Stored;

# What an LMDB store holds, by the tools of LMDB: see docs/operation.md.

use strict;
use warnings;

use Digest::SHA qw(sha256);
use Exporter qw(import);

our @EXPORT_OK = qw(load pairs record records value);

# the pairs of a database, in their order

sub pairs {
    my ($state, $database) = @_;
    my @lines = map {/^ ([0-9a-f]*)$/ ? pack 'H*', $1 : ()}
        split /\n/, qx(mdb_dump -s $database $state 2>/dev/null);
    my @pairs;
    push @pairs, [splice @lines, 0, 2] while @lines;
    return @pairs;
}

# each key with a list of its secrets, which may be sealed

sub records {
    my ($state) = @_;
    my %records;
    for (pairs($state, 'hooks')) {
        my ($key, $value) = @{$_};
        my ($version, $rest) = unpack 'C a*', $value;
        my @secrets;
        while ($version =~ /^[23]$/ && length $rest) {
            my %s;
            my ($gid_len, $len);
            (@s{qw(id serial created verified answered failing code flags)},
                $gid_len, $len) = unpack 'H16 Q>5 n C C n', $rest;
            @s{qw(gid secret)} = unpack "x54 a$gid_len a$len", $rest;
            $s{pending} = $s{flags} & 1;
            push @secrets, \%s;
            $rest = substr $rest, 54 + $gid_len + $len;
        }
        $records{$key} = \@secrets;
    }
    return \%records;
}

# one secret, and the value of a key with such

sub record {
    my ($secret, %s) = @_;
    return pack 'a8 Q>5 n C C n a*', sha256($secret), $s{serial} || 1,
        $s{created} || time - 10, $s{verified} || 0, 0, 0, 0,
        $s{pending} || 0, 0, length $secret, $secret;
}

sub value { return "\2" . join '', @_ }

# writes a pair, as if somebody had; mdb_load's exit code

sub load {
    my ($dir, $database, $key, $value, @flags) = @_;
    open my $fh, '>', "$dir/load" or die "$dir/load: $!";
    print {$fh} join "\n", 'VERSION=3', 'format=bytevalue',
        "database=$database", 'type=btree', @flags, 'HEADER=END',
        map({ ' ' . unpack 'H*', $_ } $key, $value), "DATA=END\n";
    close $fh or die "$dir/load: $!";
    return system 'mdb_load', '-s', $database, '-f', "$dir/load",
        "$dir/state";
}

1;
