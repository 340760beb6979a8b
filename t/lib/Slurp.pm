package Slurp;

# A whole file as a string of bytes.

use strict;
use warnings;

use Carp qw(croak);
use Exporter qw(import);

our @EXPORT = qw(slurp);

sub slurp {
    my ($path) = @_;
    open my $fh, '<:raw', $path or croak "$path: $!";
    local $/ = undef;
    return scalar <$fh> // '';
}

1;
