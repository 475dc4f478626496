#!/bin/sh
# Certificates, passwords and the list of ACLs, into secrets/ (which git leaves alone). Makes nothing that is there already.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
test ! -e secrets/env || { echo "secrets/env is there already"; exit 0; }
ROLES="operator pipeline executor projector monitor gateway"

openssl req -x509 -newkey rsa:3072 -nodes -days 365 -subj "/CN=sluicegate example CA" -keyout secrets/ca.key -out secrets/ca.crt 2>/dev/null
openssl req -newkey rsa:3072 -nodes -subj "/CN=kafka" -keyout secrets/kafka.key -out secrets/kafka.csr 2>/dev/null
printf 'subjectAltName=DNS:kafka,DNS:localhost\n' > secrets/san
openssl x509 -req -in secrets/kafka.csr -CA secrets/ca.crt -CAkey secrets/ca.key -CAcreateserial -days 365 -extfile secrets/san -out secrets/kafka.crt 2>/dev/null
cat secrets/kafka.key secrets/kafka.crt secrets/ca.crt > secrets/kafka.pem

word() { openssl rand -hex 24; }
ADMIN=$(word)
JAAS="org.apache.kafka.common.security.plain.PlainLoginModule required username=\"admin\" password=\"$ADMIN\" user_admin=\"$ADMIN\""
: > secrets/env.new
for role in $ROLES; do
  password=$(word)
  JAAS="$JAAS user_prod-$role=\"$password\""
  echo "$(echo "$role" | tr a-z A-Z)_PASSWORD=$password" >> secrets/env.new
done
{
  echo "KAFKA_JAAS='$JAAS;'"
  echo "CLICKHOUSE_PASSWORD=$(word)"
} >> secrets/env.new
cat > secrets/admin.properties <<PROPERTIES
security.protocol=SASL_SSL
sasl.mechanism=PLAIN
sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required username="admin" password="$ADMIN";
ssl.truststore.type=PEM
ssl.truststore.location=/certs/ca.crt
PROPERTIES
SLUICEGATE_ENV=prod SLUICEGATE_KAFKA=kafka:9092 sluicegate topics plan --format kafka-acls > secrets/acls.sh
# The containers run as users of their own, and read these.
chmod 0644 secrets/ca.crt secrets/kafka.pem secrets/admin.properties secrets/acls.sh
mv secrets/env.new secrets/env
echo "made secrets/: docker compose --env-file secrets/env up --build --wait"
