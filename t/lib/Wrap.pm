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
    return bless { fh => $fh, t => $t }, $class;
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
    @state{qw(countdown sticky err hits calls blocks txns cursors name)}
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

# Makes the first call fail, then the second, until none is left.  The
# request returns the response; what judges it gets that, how many requests
# the application saw and the name of the call, and returns what is wrong.
# "recover" is called before each of them, and then "prepare"; "least" is how
# many calls there must be.

sub walk {
    my ($self, $name, $request, $judge, %opt) = @_;
    my $t = $self->{t};
    my ($n, %seen, @wrong) = (0);
    while (++$n < 300) {
        $opt{recover}->();
        $opt{prepare}->() if $opt{prepare};
        $t->seen;
        $self->arm($n, %opt);
        my $r     = $request->();
        my $state = $self->disarm;
        last unless $state->{hits};
        my $wrong = $judge->($r, scalar(my @got = $t->seen), $state->{name});
        push @wrong, "call $n, $state->{name}: $wrong, status $r->{status}"
            if $wrong;
        $seen{ $state->{name} } = 1;
    }
    ok !@wrong, "$name: each failure has its answer" or diag join "\n", @wrong;
    ok $n > ($opt{least} || 3) && $n < 300, 'and at last all is well'
        or diag "$n calls";
    note "$name: ", $n - 1, ' calls of ', join ' ', sort keys %seen;
    return;
}

1;
