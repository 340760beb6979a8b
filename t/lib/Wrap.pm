package Wrap;

# Makes one call of the module fail, or all from one on, in the nginx of
# "make wrap": t/lib/wrap.c has the other side of the file.

use strict;
use warnings;

use Carp qw(croak);
use Test::More;
use Time::HiRes qw(usleep);

use Receiver qw(wait_for);

# Leaves the file out if nginx is another one.

sub usable {
    if (open my $fh, '<', Receiver::binary()) {
        binmode $fh;
        local $/ = undef;
        my $text = <$fh>;
        close $fh;
        return if index($text, 'ASANA_WRAP_HOLDS') >= 0;
    }
    plan skip_all => 'needs the nginx of "make wrap"';
    return;
}

sub new {
    my ($class, $t) = @_;
    $t->write_file('wrap', "\0" x 128);
    chmod 0666, "$t->{dir}/wrap" or croak $!;
    $t->{env}{ASANA_WRAP} = "$t->{dir}/wrap";
    open my $fh, '+<', "$t->{dir}/wrap" or croak $!;
    binmode $fh;
    return bless { fh => $fh }, $class;
}

# The call number n from now on fails; options: sticky, err (of LMDB).

sub arm {
    my ($self, $n, %opt) = @_;
    sysseek $self->{fh}, 0, 0 or croak $!;
    syswrite $self->{fh},
        pack('q5', $n, $opt{sticky} || 0, $opt{err} || 0, 0, 0)
        or croak $!;
    return;
}

sub state {
    my ($self) = @_;
    sysseek $self->{fh}, 0, 0 or croak $!;
    sysread $self->{fh}, my $bytes, 128 or croak $!;
    my %state;
    @state{qw(countdown sticky err hits calls ops txns cursors name)}
        = unpack 'q8Z64', $bytes;
    return \%state;
}

# Waits until the module calls nothing more, and lets all calls succeed.

sub disarm {
    my ($self) = @_;
    my $calls = -1;
    wait_for(
        sub {
            my $now = $self->state->{calls};
            return 1 if $now == $calls;
            $calls = $now;
            usleep 15000;
            return;
        }
    );
    my $state = $self->state;
    $self->arm(0);
    return $state;
}

1;
