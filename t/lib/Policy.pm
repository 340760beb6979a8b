package Policy;

# A model of the policy, written from the documentation alone.
#
#     my ($outcome, $reason, @secrets) = model(\@secrets, $change, $now, $max);
#
# A secret has the fields of @fields, a change type, enroll, id, text, gid,
# creating, all and verified.  A reason is its number.

use strict;
use warnings;

use Exporter qw(import);

our @EXPORT_OK = qw(@fields model seen);

our @fields = qw(id serial created verified answered failing code pending gid
    text);

# seconds

our ($inactive, $pending) = (1000, 300);

sub seen { $_[0]{verified} > $_[0]{created} ? $_[0]{verified} : $_[0]{created} }

sub without {
    my ($all, @gone) = @_;
    my %gone = map { $_ => 1 } @gone;
    return grep { !$gone{$_} } @$all;
}

# what two have noted of one secret

sub merged {
    my ($one, $two) = @_;
    my ($last) = sort { $b->{verified} <=> $a->{verified}
            || $b->{code} <=> $a->{code} } $one, $two;
    my ($answered) = sort { $b <=> $a } map { $_->{answered} } $one, $two;
    my ($failing) = sort { $a <=> $b }
        grep { $_ > $answered } map { $_->{failing} } $one, $two;
    return (verified => $last->{verified}, code => $last->{code},
        answered => $answered, failing => $failing || 0);
}

# the secret as a confirmed or a pending one from now on

sub with {
    my ($all, $c, $now, $wait) = @_;
    my ($old) = grep { $_->{text} eq $c->{text} } @$all;
    my %new = (
        (map { $_ => 0 } @fields),
        gid => '',
        map { $_ => $c->{$_} } qw(id text)
    );
    %new = (%{$old || \%new}, created => $now, pending => $wait, serial => 0);
    return ('ADDED', 0, @$all, \%new) if !$old;
    return ('CHANGED', 0, map { $_ == $old ? \%new : $_ } @$all);
}

sub confirmed {
    my ($all, $c, $now, $max, $idle, $confirmed) = @_;
    return with($all, $c, $now, 0) if $confirmed < $max;
    return ('REFUSED', 3, @$all) if !$idle;
    return with([without($all, $idle)], $c, $now, 0);
}

sub model {
    my ($set, $c, $now, $max) = @_;

    my ($ahead, @all);
    for my $s (@$set) {
        my %s = %$s;
        $ahead = 1, $s{serial} = 0 if seen(\%s) > $now;
        for (@s{qw(created verified answered failing)}) {
            $_ = $now if $_ > $now;
        }
        push @all, \%s if !$s{pending} || $now - $s{created} < $pending;
    }

    my @waiting   = grep { $_->{pending} } @all;
    my @confirmed = grep { !$_->{pending} } @all;
    my @active    = grep { $now - seen($_) < $inactive } @confirmed;
    my ($idle) = sort { seen($a) <=> seen($b) } without(\@confirmed, @active);
    my ($mine)  = grep { $_->{text} eq $c->{text} } @all;
    my ($named) = grep { $_->{id} eq $c->{id} } @all;
    my @room = (\@all, $c, $now, $max, $idle, scalar @confirmed);
    my $type = $c->{type};

    if ($type eq 'revoke') {
        my @gone = $c->{all} ? @all : $named ? $named : ();
        return (@gone ? 'CHANGED' : 'ABSENT', 0, without(\@all, @gone));
    }

    if ($type eq 'forget') {
        my @gone = grep { $_->{gid} ne '' && $_->{gid} eq $c->{gid} } @all;
        return (@gone ? 'CHANGED' : 'ABSENT', 0, without(\@all, @gone));
    }

    if ($type eq 'note') {
        return ($ahead ? 'CHANGED' : 'ABSENT', 0, @all)
            if !$named || $named->{pending};
        my @times  = qw(verified answered failing);
        my %noted  = map { $_ => $c->{$_} > $now ? $now : $c->{$_} } @times;
        my %merged = merged($named, {%noted, code => $c->{code}});
        return ($ahead ? 'CHANGED' : 'HELD', 0, @all)
            if !grep { $merged{$_} != $named->{$_} } @times, 'code';
        @$named{keys %merged, 'serial'} = (values %merged, 0);
        return ('CHANGED', 0, @all);
    }

    if ($type eq 'confirm') {
        return ('ABSENT', 0, @all)
            if !$mine
            || !$mine->{pending} && $now - $mine->{created} >= $pending;
        my ($is, $why, @new)
            = $mine->{pending} ? confirmed(@room) : ('HELD', 0, @all);
        return ($is, $why, @new)
            if $is eq 'REFUSED' || $c->{gid} eq ''
            || $c->{gid} eq $mine->{gid};
        $_->{gid} = $c->{gid} for grep { $_->{text} eq $c->{text} } @new;
        return ('CHANGED', $why, @new);
    }

    return ('REFUSED', 5, @all) if !$mine && $named;

    if ($type eq 'put') {
        return confirmed(@room) if !$mine || $mine->{pending};
        return with(\@all, $c, $now, 0) if !grep { $_ == $mine } @active;
        return ('HELD', 0, @all);
    }

    my $enroll = $c->{enroll};
    my $waits = $enroll eq 'confirm' || $enroll eq 'gateway';

    return ('HELD', 0, @all)
        if $mine && (!$mine->{pending} || $waits || $enroll eq 'off');
    return ('REFUSED', 1, @all) if $enroll eq 'off';
    return ('REFUSED', 4, @all) if $enroll eq 'gateway' && !$c->{creating};

    my $first = $enroll eq 'first';
    if (@active >= ($first ? 1 : $max)) {
        return $mine ? ('HELD', 0, @all) : ('REFUSED', $first ? 2 : 3, @all);
    }

    return with(\@waiting, $c, $now, 0) if $first;
    return confirmed(@room) if !$waits;

    my ($oldest) = sort { $a->{created} <=> $b->{created} } @waiting;
    @all = without(\@all, $oldest) if @waiting && @all >= $max;
    return with(\@all, $c, $now, 1);
}

1;
