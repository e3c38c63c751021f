#!/bin/bash
# Opens PostgreSQL and Redis to the lab's network ($1) and stocks the shop. Idempotent.
set -euo pipefail
stocked=/var/lib/shop.stocked
up() { systemctl --quiet is-active postgresql@15-main && systemctl --quiet is-active redis-server; }
if [[ -e $stocked ]] && up; then exit 0; fi
rm -f /etc/systemd/system-generators/postgresql-generator
systemctl daemon-reload
systemctl --quiet enable postgresql redis-server
cd /etc/postgresql/*/main
grep -q "$1" pg_hba.conf || echo "host shop shop $1 scram-sha-256" >>pg_hba.conf
mkdir -p conf.d
printf '%s\n' "listen_addresses = '*'" 'fsync = off' 'max_connections = 40' >conf.d/lab.conf
systemctl set-property postgresql@15-main IOWeight=100 # its slice hands out the io controller
systemctl restart postgresql@15-main
sed -i -e 's/^bind .*/bind * -::*/' -e 's/^protected-mode .*/protected-mode no/' \
    /etc/redis/redis.conf
systemctl restart redis-server

cd /
as_postgres() { runuser -u postgres -- "$@"; }
if [[ -z $(as_postgres psql -Atc "select 1 from pg_roles where rolname = 'shop'") ]]; then
    as_postgres psql -qc "create role shop login password 'shop'"
    as_postgres createdb --owner shop shop
    as_postgres psql -q shop <<'SQL'
create table item (id int primary key, name text not null, sold int not null default 0);
insert into item select n, 'thing ' || n, 0 from generate_series(1, 100) n;
alter table item owner to shop;
SQL
fi
touch $stocked
