package Shim;

# A disk that is slow or fails under the store of a Receiver, and a clock that
# is wrong: t/lib/shim.c, which LD_PRELOAD brings into its nginx.

use strict;
use warnings;

use Carp qw(croak);
use File::Basename qw(dirname);
use Test::More;

use Receiver;

my $source = dirname(__FILE__) . '/shim.c';

# A sanitizer wants to be loaded first: 0 then.

sub works {
    return 1 unless $ENV{ASANA_HOOK_STATIC};
    open my $fh, '<', Receiver::binary() or return 1;
    binmode $fh;
    local $/ = undef;
    my $text = <$fh>;
    close $fh;
    return index($text, '__asan_init') < 0;
}

# Leaves the file out if it does not work.

sub usable {
    plan(skip_all => 'LD_PRELOAD and the sanitizers do not mix') if !works();
    return;
}

sub new {
    my ($class, $t) = @_;
    my $self = bless { t => $t }, $class;
    my $so   = "$t->{dir}/shim.so";
    system($ENV{CC} || 'cc', '-shared', '-fPIC', '-O1', '-o', $so, $source,
        '-ldl') == 0
        or croak 'the shim does not compile';
    $t->{env}
        = { LD_PRELOAD => $so, ASANA_SHIM => "$t->{dir}/faults" };
    $t->write_file('faults.syncs', '');
    chmod 0666, "$t->{dir}/faults.syncs" or croak $!;
    return $self->set;
}

# Options: delay_ms, stuck, write, sync, dsync, short, ahead; see t/lib/shim.c.

sub set {
    my ($self, %opt) = @_;
    $self->{t}->write_file('faults',
        join '', map {"$_=$opt{$_}\n"} sort keys %opt);
    return $self;
}

# Keeps apart what was synced, in "faults.disk".

sub disk {
    my ($self) = @_;
    $self->{t}->write_file('faults.disk', '');
    chmod 0666, "$self->{t}{dir}/faults.disk" or croak $!;
    return $self;
}

# How many syncs there were.

sub syncs {
    my ($self) = @_;
    my $n = () = $self->{t}->slurp('faults.syncs') =~ /\n/g;
    return $n;
}

1;
