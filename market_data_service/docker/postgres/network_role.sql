-- Run once, when the data are made. The role that the image uses by itself (docker/image.env), so that
-- `docker run --network ... market-data-api` needs no password: none is in the image, and none is given to it.
-- It reads and writes rows of the tables that POSTGRES_USER makes; it cannot make, change or drop any.
CREATE ROLE market_data_api LOGIN CONNECTION LIMIT 50;
ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO market_data_api;
ALTER DEFAULT PRIVILEGES GRANT USAGE ON SEQUENCES TO market_data_api;
